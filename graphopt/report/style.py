"""The style sheet of the HTML report."""

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5d6b7c;--line:#e2e6ec;--compute:#2f6fd0;--memory:#e08a1e;
--overhead:#8f99a8;--on-chip:#7a52c7;--was:#d5dbe4;--good:#16794c;--bad:#b3372b;--warn:#946200;--gone:#b3372b;
--new:#16794c}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b212a;--ink:#e8edf3;--soft:#9aa7b7;--line:#2c3541;
--compute:#5b96f0;--memory:#f0a447;--overhead:#77828f;--on-chip:#a486e8;--was:#394452;--good:#4cc38a;--bad:#f2786b;
--warn:#e2b04a;--gone:#f2786b;--new:#4cc38a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1160px;margin:0 auto;padding:28px 20px 60px}
header{margin-bottom:18px}
h1{font-size:26px;margin:2px 0 4px;overflow-wrap:anywhere}h1 span{color:var(--soft);font-weight:400}
h2{font-size:17px;margin:0 0 10px}
.crumb{color:var(--soft);margin:0;font-size:13px}.lead{font-size:18px;margin:0 0 8px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:18px}
.tile p{margin:0}.name{color:var(--soft);font-size:13px}
.big{font-size:23px;font-weight:650;white-space:nowrap}.big span{font-size:14px;font-weight:600}
.was-text{color:var(--soft);font-size:13px}.better{color:var(--good)}.worse{color:var(--bad)}.same{color:var(--soft)}
.meter{height:7px;margin-top:4px}.meter i{display:block;height:100%;background:var(--compute);border-radius:3px}
.meter.old{margin-top:8px}.meter.old i{background:var(--was)}
.note{color:var(--soft);font-size:13px;margin:8px 0}
.badge{display:inline-block;padding:1px 9px;border-radius:20px;font-size:12.5px;font-weight:600;margin-right:6px;
border:1px solid currentColor;color:var(--soft)}
.optimized,.equal,.exact{color:var(--good)}.badge.repaired,.inconclusive,.drift,.unchanged,.skipped{color:var(--warn)}
.retrain,.failed,.differs{color:var(--bad)}
svg{width:100%;height:auto;display:block;margin:6px 0 10px}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}svg text.value{fill:var(--ink);font-weight:650;font-size:14px}
.compute{fill:var(--compute);background:var(--compute)}.memory{fill:var(--memory);background:var(--memory)}
.overhead{fill:var(--overhead);background:var(--overhead)}.on-chip{fill:var(--on-chip);background:var(--on-chip)}.was{fill:var(--was);background:var(--was)}
.gone{fill:var(--gone);background:var(--gone)}circle.new,.legend .new{fill:var(--new);background:var(--new)}
.hit{fill:transparent}g:hover .hit{fill:var(--line);opacity:.6}.seg:hover{opacity:.7}
.grid{stroke:var(--line)}.base{stroke:var(--soft)}
circle.front{fill:var(--compute);opacity:.45}circle.before{fill:var(--card);stroke:var(--soft);stroke-width:2.5}
circle.after{fill:var(--good);stroke:var(--card);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);margin:0 0 10px}
.legend span{display:flex;align-items:center;gap:6px}.legend i{width:12px;height:12px;border-radius:3px}
.legend .gone,.legend .new,.legend .dot{border-radius:50%}
.dot.front{background:var(--compute);opacity:.45}.dot.before{border:2.5px solid var(--soft)}
.dot.after{background:var(--good)}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:20px}
figure{margin:0}figcaption{font-size:13px;color:var(--soft)}
.scroll{overflow-x:auto;max-height:560px;overflow-y:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{color:var(--soft);font-weight:600;text-align:left;position:sticky;top:0;background:var(--card)}
td,th{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right}
code{font:12.5px ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.gain{position:relative;min-width:130px}.gain i{display:block;position:absolute;inset:3px auto 3px 0;
background:var(--compute);opacity:.25;border-radius:3px}.gain b{position:relative;padding-left:6px;font-weight:600}
summary{cursor:pointer;font-weight:650}details .scroll{margin-top:10px}
@media print{body{background:#fff}.scroll{max-height:none}}
"""
