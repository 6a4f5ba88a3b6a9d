"""How the page of results looks."""

STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --soft: #63636b; --line: #e2e2e6; --back: #fff; --card: #f7f7f8;
  --own: #2563eb; --bar: #c3c6cf; --right: #15803d; --wrong: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8ea; --soft: #a0a0a8; --line: #35353b; --back: #161618;
  --card: #202024; --own: #7aa2ff; --bar: #54545d; --right: #4ade80; --wrong: #f87171; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 1120px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0; } h2 small { color: var(--soft); font-weight: 400; margin-left: .6rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .5rem; }
section { border-top: 1px solid var(--line); margin-top: 2.2rem; padding-top: 1.4rem; }
a { color: inherit; text-decoration-color: var(--bar); text-underline-offset: 3px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 500; } th:first-child { text-align: left; padding-left: 0; } tr > th { color: var(--soft); }
table.main { width: 100%; } table.main th { font-weight: 600; } tbody.own { border-bottom: 2px solid var(--text); }
tbody.own th, tbody.own td { font-weight: 700; color: var(--own); font-size: 1.05rem; padding-block: .45rem; }
tr.paper th, tr.paper td { font-weight: 600; color: var(--text); }
td.none, p.none, tbody.own td.none { color: var(--soft); font-weight: 400; font-size: .85rem; white-space: normal; }
p.notes, p.protocol, ul.account, summary { color: var(--soft); font-size: .87rem; }
p.protocol { margin: .1rem 0 .8rem; } ul.account { columns: 2; padding-left: 1.1rem; overflow-wrap: anywhere; }
p.big { font-size: 2rem; font-weight: 700; margin: 0 0 .6rem; line-height: 1.2; } p.big.none { font-size: 1.2rem; }
.badge { font-size: .75rem; font-weight: 600; color: #7c2d12; background: #ffedd5; border-radius: 4px;
  padding: .1rem .45rem; margin: 0 .4rem; vertical-align: middle; display: inline-block; }
.pair { display: grid; grid-template-columns: minmax(280px, 400px) minmax(0, 1fr); gap: 1rem 2.5rem;
  align-items: start; }
@media (max-width: 760px) { .pair { grid-template-columns: 1fr; } ul.account { columns: 1; } }
.bar { display: grid; grid-template-columns: 9rem 1fr 3.6rem; gap: .6rem; align-items: center; font-size: .85rem; }
.bar span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--soft); }
.bar i { display: block; height: .6rem; background: var(--card); border-radius: 3px; overflow: hidden; }
.bar b { display: block; height: 100%; background: var(--bar); border-radius: 3px; }
.bar em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums; }
.bar.own span, .bar.own em { color: var(--own); font-weight: 600; } .bar.own b { background: var(--own); }
details { margin-top: .8rem; } summary { cursor: pointer; }
h3.right, dd.right { color: var(--right); } h3.wrong, dd.wrong { color: var(--wrong); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: .8rem; }
figure { margin: 0; background: var(--card); border-radius: 6px; overflow: hidden; font-size: .82rem;
  line-height: 1.35; }
figure img { width: 100%; height: 130px; object-fit: contain; background: var(--line); display: block; }
.absent { height: 130px; display: grid; place-items: center; text-align: center; color: var(--soft); padding: 0 .6rem;
  box-sizing: border-box; border-bottom: 1px dashed var(--bar); overflow-wrap: anywhere; }
figcaption { padding: .5rem .6rem .6rem; }
figcaption p { margin: 0 0 .4rem; white-space: pre-line; max-height: 8.1em; overflow: auto; overflow-wrap: anywhere; }
dl { margin: 0; display: grid; grid-template-columns: auto 1fr; gap: .1rem .5rem; } dt { color: var(--soft); }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; max-height: 8.1em; overflow: auto; }
"""
