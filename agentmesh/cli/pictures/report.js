"use strict";
(() => {
  const PAGE = 100, BINS = 120, TALL = 120;
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("data").textContent);
  const { agents, words, columns: at } = data;
  const total = at.at.length;
  const whole = new Intl.NumberFormat("en");

  // Text goes into the page as text alone, so that nothing in a log can be markup.
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const time = (ms) => {
    const moment = new Date(ms);
    return Number.isNaN(moment.getTime()) ? `${ms} ms` : moment.toISOString().replace("T", " ").replace("Z", "");
  };
  const end = (did) => (did.length <= 8 ? did || "-" : `..${did.slice(-6)}`);

  let first = Infinity, last = -Infinity;
  for (const ms of at.at) { if (ms < first) first = ms; if (ms > last) last = ms; }
  if (!total) { first = 0; last = 0; }
  const step = Math.max(1, last - first + 1);
  const bins = new Uint8Array(total);
  for (let row = 0; row < total; row++) bins[row] = Math.min(BINS - 1, Math.floor(((at.at[row] - first) * BINS) / step));

  // --- filters ---
  const option = (value, text) => { const made = element("option", text); made.value = value; return made; };
  const event = get("event"), agent = get("agent"), outcome = get("outcome"), search = get("search");
  const after = get("after"), before = get("before");
  event.append(option("", "all"));
  for (const kind of [...new Set(at.event)].sort((a, b) => (words[a] < words[b] ? -1 : 1))) event.append(option(kind, words[kind]));
  const busy = new Map();
  for (const side of [at.from, at.to]) for (const who of side) if (agents[who]) busy.set(who, (busy.get(who) || 0) + 1);
  agent.append(option("", "anybody"));
  for (const [who] of [...busy].sort((a, b) => b[1] - a[1]).slice(0, 500)) agent.append(option(who, agents[who]));

  let found = [], page = 0;
  const matching = () => {
    const wanted = search.value.trim().toLowerCase();
    const named = agents.map((did) => did.toLowerCase().includes(wanted));
    const said = words.map((word) => word.toLowerCase().includes(wanted));
    const from = Number(after.value), to = Number(before.value);
    const rows = [], counts = new Float64Array(BINS), refused = new Float64Array(BINS);
    for (let row = 0; row < total; row++) {
      if (event.value !== "" && at.event[row] !== Number(event.value)) continue;
      if (agent.value !== "" && at.from[row] !== Number(agent.value) && at.to[row] !== Number(agent.value)) continue;
      if (outcome.value !== "" && at.refused[row] !== Number(outcome.value)) continue;
      if (wanted && !(named[at.from[row]] || named[at.to[row]] || said[at.reason[row]] || at.receipt[row].includes(wanted))) continue;
      const bin = bins[row];
      (at.refused[row] ? refused : counts)[bin] += at.count[row];
      if (bin >= from && bin < to) rows.push(row);
    }
    found = rows;
    draw(counts, refused, from, to);
  };

  // --- the timeline ---
  const shape = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return made;
  };
  const draw = (counts, refused, from, to) => {
    const most = Math.max(1, ...counts.map((count, bin) => count + refused[bin]));
    const width = 1000 / BINS, bars = [];
    bars.push(shape("rect", { class: "pick", x: from * width, y: 0, width: Math.max(0, to - from) * width, height: TALL }));
    for (let bin = 0; bin < BINS; bin++) {
      let used = 0;
      for (const [kind, count] of [["b", counts[bin]], ["rb", refused[bin]]]) {
        if (!count) continue;
        const tall = Math.max(3, ((TALL - 8) * count) / most);
        bars.push(shape("rect", { class: kind, x: bin * width, y: TALL - used - tall, width: width - 1, height: tall }));
        used += tall;
      }
    }
    const line = get("timeline");
    line.replaceChildren(...bars);
    line.setAttribute("aria-label", `Records over time: ${whole.format(found.length)} within what is chosen`);
    get("span").textContent = `${time(first + (from * step) / BINS)} to ${time(first + (to * step) / BINS)}`;
  };
  get("timeline").addEventListener("click", (where) => {
    const box = get("timeline").getBoundingClientRect();
    const bin = Math.min(BINS - 1, Math.max(0, Math.floor(((where.clientX - box.left) / box.width) * BINS)));
    after.value = Math.max(0, bin - 2);
    before.value = Math.min(BINS, bin + 3);
    change();
  });

  // --- the list, one page at a time: so a log of any length costs the same to show ---
  const show = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(0, page), pages - 1);
    const rows = found.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
      const line = element("tr", undefined, at.refused[row] ? "refused" : "");
      line.append(element("td", whole.format(data.first + row), "number"), element("td", time(at.at[row])), element("td", words[at.event[row]]));
      for (const side of [at.from, at.to]) {
        const cell = element("td", end(agents[side[row]]), "did");
        cell.title = agents[side[row]];
        line.append(cell);
      }
      const more = [at.refused[row] ? "refused" : "", words[at.reason[row]], at.number[row] ? `no. ${at.number[row]}` : "", at.count[row] > 1 ? `${whole.format(at.count[row])} times` : ""];
      line.append(element("td", at.size[row] ? whole.format(at.size[row]) : "", "number"), element("td", at.receipt[row], "receipt"), element("td", more.filter(Boolean).join(", ")));
      return line;
    });
    get("rows").tBodies[0].replaceChildren(...rows);
    get("found").textContent = `${whole.format(found.length)} of ${whole.format(total)} records`;
    get("page").textContent = `page ${whole.format(page + 1)} of ${whole.format(pages)}`;
    for (const id of ["begin", "earlier"]) get(id).disabled = page === 0;
    for (const id of ["later", "end"]) get(id).disabled = page >= pages - 1;
  };
  const turn = { begin: () => 0, earlier: () => page - 1, later: () => page + 1, end: () => Infinity };
  for (const id in turn) get(id).addEventListener("click", () => { page = Math.min(turn[id](), found.length); show(); });
  const change = () => {
    if (Number(after.value) > Number(before.value)) [after.value, before.value] = [before.value, after.value];
    page = 0;
    matching();
    show();
  };
  for (const control of [event, agent, outcome, search, after, before]) control.addEventListener("input", change);
  get("filters").addEventListener("submit", (sent) => sent.preventDefault());
  get("filters").addEventListener("reset", () => { after.value = 0; before.value = BINS; setTimeout(change); });

  for (const id of ["filters", "when", "rows", "pages"]) get(id).hidden = false;
  change();
  document.body.dataset.ready = "yes";
})();
