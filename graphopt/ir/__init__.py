"""The model as a networkx graph, its channel groups and tensor lifetimes."""
