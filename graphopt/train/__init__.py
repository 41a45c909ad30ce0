"""Gradients, in PyTorch (the ``[train]`` extra): the only room that imports it, and only when it is used."""
