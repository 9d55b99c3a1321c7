// Zoom, tooltips, filters and the gallery. Everything that it draws is also in the page without it, at full length.
(() => {
"use strict";
const $ = (query) => document.querySelector(query);
const $$ = (query) => [...document.querySelectorAll(query)];
const D = JSON.parse($("#data").textContent);
const [ALONG, ACROSS, LONG, WIDE, CLASS, SEVERITY, AREA, SCORE, SOURCE, PLANE] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const PAGE = 60, SVG = "http://www.w3.org/2000/svg";
const hidden = { class: new Set(), severity: new Set() };
let view = [0, D.length], order = [], limit = PAGE, wanted = "";
document.documentElement.classList.add("js");

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const number = (value, digits = 0) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const node = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
};
const passes = (row) => !hidden.class.has(row[CLASS]) && !hidden.severity.has(row[SEVERITY])
  && (!wanted || row[SOURCE].toLowerCase().includes(wanted));

// ---- cards: those beyond the first wait in inert templates, so that their pictures cost nothing until they are shown
const cards = new Map($$("#gallery .card").map((card) => [+card.dataset.i, card]));
const waiting = [...document.querySelectorAll("#more-cards template")];
const firstWaiting = cards.size;
const card = (i) => {
  if (!cards.has(i)) cards.set(i, document.importNode(waiting[i - firstWaiting].content, true).querySelector(".card"));
  return cards.get(i);
};
const outlinePath = (i) => (cards.get(i) || waiting[i - firstWaiting].content).querySelector(".outline").getAttribute("d");

const sorts = {
  severe: (a, b) => a - b,
  along: (a, b) => D.rows[a][ALONG] - D.rows[b][ALONG] || a - b,
  area: (a, b) => D.rows[b][AREA] - D.rows[a][AREA] || a - b,
  score: (a, b) => D.rows[b][SCORE] - D.rows[a][SCORE] || a - b,
  class: (a, b) => D.rows[a][CLASS] - D.rows[b][CLASS] || a - b,
};
function fillGallery() {
  const sort = $("#sort") ? $("#sort").value : "severe";
  order = D.rows.map((_, i) => i).filter((i) => passes(D.rows[i])).sort(sorts[sort]);
  $("#gallery").replaceChildren(...order.slice(0, limit).map(card));
  const inAll = order.length === D.rows.length ? "" : ` of ${number(D.rows.length)}`;
  $("#shown-count").textContent = number(order.length) + inAll;
  const left = order.length - limit;
  if ($("#more")) {
    $("#more").hidden = left <= 0;
    $("#more").textContent = `show ${number(Math.min(PAGE, left))} more of ${number(left)}`;
  }
}
function jump(i) {
  const found = card(i);
  if (!found.isConnected) $("#gallery").prepend(found);
  $$(".card.lit").forEach((old) => old.classList.remove("lit"));
  found.classList.add("lit");
  found.scrollIntoView({ block: "center", behavior: "smooth" });
}

// ---- the map
const marks = $$("#marks .mark").map((use) => ({ use, row: D.rows[+use.dataset.i], y: use.dataset.y,
  radius: +/scale\(([\d.]+)/.exec(use.getAttribute("transform"))[1] }));
const crowded = (count) => clamp(Math.sqrt(500 / Math.max(count, 1)), .45, 1);
function drawMap() {
  const [from, to] = view, k = D.plot / (to - from), x = (mm) => (mm - from) * k;
  const seen = marks.filter((mark) => {
    const half = mark.row[LONG] / 2;
    const is = passes(mark.row) && mark.row[ALONG] + half >= from && mark.row[ALONG] - half <= to;
    mark.use.style.display = is ? "" : "none";
    return is;
  });
  const swell = crowded(seen.length) / crowded(marks.length);
  $("#marks").classList.toggle("crowded", seen.length > 1200);
  const shapes = [];
  for (const mark of seen) {
    const long = seen.length <= 300 ? mark.row[LONG] * k : 0;
    if (long > 14) {
      shapes.push(shape(mark, x, k, long > 45));
      mark.use.style.display = "none";
    }
    mark.use.setAttribute("transform", `translate(${x(mark.row[ALONG]).toFixed(1)} ${mark.y}) scale(${(mark.radius * swell).toFixed(2)})`);
  }
  $("#shapes").replaceChildren(...shapes);
  for (const use of $$("#missed use")) {
    use.style.display = hidden.class.has(+use.dataset.k) ? "none" : "";
    use.setAttribute("transform", `translate(${x(+use.dataset.x).toFixed(1)} ${use.dataset.y}) scale(7)`);
  }
  for (const gap of $$("#gaps .gap")) {
    const a = clamp(x(+gap.dataset.a), -9, D.plot + 9), b = clamp(x(+gap.dataset.b), -9, D.plot + 9);
    gap.setAttribute("x", a);
    gap.setAttribute("width", Math.max(b - a, D.thinnestGap));
    gap.classList.toggle("thin", b - a < 6);
  }
  drawTicks(x);
  drawPieces(x);
  const a = from / D.length * D.plot, b = to / D.length * D.plot;
  set("#window", { x: a, width: Math.max(b - a, 2) });
  set("#shade-left", { width: a });
  set("#shade-right", { x: b, width: D.plot - b });
}
const set = (query, attributes) => { for (const key in attributes) $(query).setAttribute(key, attributes[key]); };
function shape(mark, x, k, close) {  // the frame turned a quarter, so that along runs to the right: outline, and picture when close
  const [across, perU, along, perV] = mark.row[PLANE], ky = D.strip / D.across, i = +mark.use.dataset.i;
  const matrix = [0, -perU * ky, perV * k, 0, x(along), D.strip - (across - D.acrossFrom) * ky].map((value) => value.toPrecision(7));
  const whole = node("g", { transform: `matrix(${matrix})` }), picture = close && card(i).querySelector("image");
  if (picture) whole.append(picture.cloneNode());
  const ring = mark.row[SEVERITY] === 0 && D.severities.length > 1 ? " ringed" : "";
  whole.append(node("path", { d: outlinePath(i), class: `shape k${mark.row[CLASS] % 8}${picture ? " seen" : ""}${ring}`, "data-i": i }));
  return whole;
}
function niceValues(from, to, most) {
  const span = to - from, decade = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 5, 10, 20].map((factor) => factor * decade).find((size) => size * most >= span * (1 - 1e-9));
  const values = [];
  for (let n = Math.ceil(from / step - 1e-9); n * step <= to + step * 1e-9; n++) values.push(n * step || 0);
  return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}
function drawTicks(x) {
  const ticks = [];
  const add = (mm, text) => {
    const tick = node("g", { transform: `translate(${x(mm).toFixed(1)} 0)` });
    tick.append(node("path", { class: "tick-line", d: "M0 0v6" }), node("text", { class: "tick-text", y: 20, "text-anchor": "middle" }, text));
    ticks.push(tick);
  };
  if (D.pieces.length) {
    const inView = D.pieces.map((_, i) => i).filter((i) => D.pieces[i][1] > view[0] && D.pieces[i][0] < view[1]);
    const step = Math.max(1, niceStep(inView.length, 14));
    for (const i of inView) if (inView.length < 15 || (i + 1) % step === 0) {
      const middle = (D.pieces[i][0] + D.pieces[i][1]) / 2;
      if (middle >= view[0] && middle <= view[1]) add(middle, number(i + 1));
    }
  } else {
    const { values, digits } = niceValues(view[0] / 1000, view[1] / 1000, 12);
    values.forEach((m) => add(m * 1000, number(m, digits)));
  }
  $("#ticks").replaceChildren(...ticks);
  $("#grid").replaceChildren(...(D.pieces.length ? [] : ticks.map((tick) => node("path", { class: "grid", d: `M0 0v${D.strip}`, transform: tick.getAttribute("transform") }))));
}
const niceStep = (span, most) => { const { values } = niceValues(0, span, most); return Math.round(values[1] - values[0]); };
function drawPieces(x) {
  const drawn = [];
  const wide = D.pieces.length ? x(D.pieces[0][1]) - x(D.pieces[0][0]) : 0;
  if (wide >= 9) for (const [start, end, source] of D.pieces) {
    const left = x(start), right = x(end);
    if (right < 0 || left > D.plot) continue;
    drawn.push(node("path", { class: "piece-edge", d: `M${left.toFixed(1)} 0v${D.strip}M${right.toFixed(1)} 0v${D.strip}` }));
    const room = Math.floor((Math.min(right, D.plot) - Math.max(left, 0) - 10) / 6);
    if (room >= 8) drawn.push(node("text", { class: "piece-name", x: Math.max(left, 0) + 5, y: D.strip - 8 },
      source.length > room ? source.slice(0, room - 1) + "…" : source));
  }
  $("#pieces").replaceChildren(...drawn);
}
function drawBars() {
  const counts = D.classes.map(() => new Array(D.bins).fill(0)), total = new Array(D.bins).fill(0);
  for (const row of D.rows) if (passes(row)) {
    const bin = Math.min(Math.floor(row[ALONG] / D.length * D.bins), D.bins - 1);
    counts[row[CLASS]][bin]++;
    total[bin]++;
  }
  const most = Math.max(1, ...total), base = new Array(D.bins).fill(0), step = D.plot / D.bins;
  $$("#bars path").forEach((path, c) => path.setAttribute("d", counts[c].map((count, i) => {
    if (!count) return "";
    const size = count / most * D.barsHeight, low = D.barsHeight - base[i];
    base[i] += size;
    return `M${(i * step).toFixed(2)} ${low.toFixed(2)}h${(step * .86).toFixed(2)}v${(-size).toFixed(2)}h${(-step * .86).toFixed(2)}z`;
  }).join("")));
}
let due = 0;
function look(from, to) {
  const span = clamp(to - from, Math.min(400, D.length), D.length), start = clamp((from + to - span) / 2, 0, D.length - span);
  view = [start, start + span];
  if (!due) due = requestAnimationFrame(() => { due = 0; drawMap(); });
}
function zoom(factor, at = (view[0] + view[1]) / 2) {
  look(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
}
function pan(share) {
  const span = view[1] - view[0], start = clamp(view[0] + span * share, 0, D.length - span);
  look(start, start + span);
}

// ---- hands on the map
const map = $("#map");
const place = (event, group) => clamp(new DOMPoint(event.clientX, event.clientY).matrixTransform($(group).getScreenCTM().inverse()).x, 0, D.plot);
const inView = (x) => view[0] + x / D.plot * (view[1] - view[0]);
function drag(event, moved, done) {
  const start = event.clientX;
  let far = false;
  const move = (next) => { far = far || Math.abs(next.clientX - start) > 4; if (far) moved(next); };
  const end = (last) => {
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", end);
    done(last, far);
  };
  addEventListener("pointermove", move);
  addEventListener("pointerup", end);
  event.preventDefault();
}
$("#strip").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  const from = place(event, "#strip"), target = event.target.dataset.i;
  drag(event, (next) => {
    const to = place(next, "#strip");
    set("#rubber", { x: Math.min(from, to), width: Math.abs(to - from) });
  }, (last, far) => {
    set("#rubber", { width: 0 });
    const to = place(last, "#strip");
    if (far) look(inView(Math.min(from, to)), inView(Math.max(from, to)));
    else if (target !== undefined) jump(+target);
  });
});
$("#overview-catch").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  const mm = (e) => place(e, "#overview") / D.plot * D.length, from = mm(event), [a, b] = view;
  const grip = D.length / D.plot * 7, whole = b - a > D.length * .999;
  const near = !whole && (Math.abs(from - a) < grip ? "a" : Math.abs(from - b) < grip ? "b" : from > a && from < b ? "move" : "");
  drag(event, (next) => {
    const to = mm(next);
    if (near === "move") { const start = clamp(a + to - from, 0, D.length - (b - a)); look(start, start + b - a); }
    else { const other = near === "a" ? b : near === "b" ? a : from; look(Math.min(other, to), Math.max(other, to)); }
  }, (_, far) => { if (!far && !near && !whole) look(from - (b - a) / 2, from + (b - a) / 2); });
});
map.addEventListener("dblclick", () => look(0, D.length));
map.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(event.deltaY > 0 ? 1.3 : 1 / 1.3, inView(place(event, "#strip")));
}, { passive: false });
$$("[data-zoom]").forEach((button) => button.addEventListener("click", () => ({
  in: () => zoom(.5), out: () => zoom(2), left: () => pan(-.5), right: () => pan(.5), all: () => look(0, D.length),
})[button.dataset.zoom]()));

const tip = $("#tip");
map.addEventListener("pointermove", (event) => {
  const row = event.target.dataset.i === undefined ? null : D.rows[+event.target.dataset.i];
  tip.hidden = !row;
  if (!row) return;
  tip.textContent = [`${D.classes[row[CLASS]]} · ${D.severities[row[SEVERITY]]}`,
    (D.pieces.length ? "" : `${number(row[ALONG] / 1000, 2)} m along · `) + `${number(row[ACROSS])} mm across`,
    `${number(row[LONG], 1)} × ${number(row[WIDE], 1)} mm · score ${row[SCORE].toFixed(2)}`, row[SOURCE]].filter(Boolean).join("\n");
  const left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
});
map.addEventListener("pointerleave", () => { tip.hidden = true; });

// ---- filters, sorting, more
function refresh() { limit = PAGE; fillGallery(); drawBars(); drawMap(); }
$$(".filter").forEach((button) => button.addEventListener("click", () => {
  const kind = button.dataset.class === undefined ? "severity" : "class", set = hidden[kind], key = +button.dataset[kind];
  if (!set.delete(key)) set.add(key);
  button.setAttribute("aria-pressed", String(!set.has(key)));
  refresh();
}));
if ($("#sort")) $("#sort").addEventListener("change", () => { limit = PAGE; fillGallery(); });
if ($("#search")) $("#search").addEventListener("input", (event) => { wanted = event.target.value.trim().toLowerCase(); refresh(); });
$$("[data-source]").forEach((button) => button.addEventListener("click", () => {
  $("#search").value = button.dataset.source;
  wanted = button.dataset.source.toLowerCase();
  refresh();
  $("#cards").scrollIntoView({ behavior: "smooth" });
}));
if ($("#outlines")) $("#outlines").addEventListener("change", (event) => document.body.classList.toggle("no-outlines", !event.target.checked));
if ($("#more")) $("#more").addEventListener("click", () => { limit += PAGE; fillGallery(); });

// ---- one defect, large; the mark of the card under the pointer is lit
const large = $("#large");
let open = 0;
function enlarge(position) {
  open = clamp(position, 0, order.length - 1);
  const copy = card(order[open]).cloneNode(true);
  copy.removeAttribute("id");
  copy.classList.remove("lit");
  $("#large-card").replaceChildren(copy);
  if (!large.open) large.showModal();
}
$("#gallery").addEventListener("click", (event) => {
  const figure = event.target.closest("figure"), i = figure && +figure.closest(".card").dataset.i;
  if (figure && order.includes(i)) enlarge(order.indexOf(i));
});
$("#large .close").addEventListener("click", () => large.close());
$("#large .back").addEventListener("click", () => enlarge(open - 1));
$("#large .on").addEventListener("click", () => enlarge(open + 1));
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") enlarge(open - 1);
  if (event.key === "ArrowRight") enlarge(open + 1);
});
const markOf = new Map(marks.map((mark) => [+mark.use.dataset.i, mark.use]));
for (const [kind, on] of [["pointerover", true], ["pointerout", false]]) $("#gallery").addEventListener(kind, (event) => {
  const over = event.target.closest(".card"), use = over && markOf.get(+over.dataset.i);
  if (use) use.classList.toggle("lit", on);
});
fillGallery();
drawMap();
})();
