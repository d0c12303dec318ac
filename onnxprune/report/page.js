"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const fill = (list, names) => list.replaceChildren(...names.map((name, index) => make("option", { value: index }, name)));

// ---- figures: everything shown follows from the controls

const dashes = ["", "7 4", "2 3", "7 3 2 3", "12 4", "12 3 2 3"];
let study;
const hidden = new Set();

function swatch(curve) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "-19 -7 38 14");
  drawing.setAttribute("aria-hidden", "true");
  for (const attributes of [
    { d: "M-19 0H19", stroke: curve.colour, "stroke-width": 2, "stroke-dasharray": dashes[curve.dash] },
    { d: curve.path, fill: curve.colour },
  ]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [name, value] of Object.entries(attributes)) path.setAttribute(name, value);
    drawing.append(path);
  }
  return drawing;
}

function chooseStudy() {
  study = data.studies[element("study").value];
  hidden.clear();
  element("series").replaceChildren(
    ...study.series.map((curve) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(curve.name);
        else hidden.add(curve.name);
        drawCurves();
      });
      return make("label", { className: "key" }, box, swatch(curve), curve.name);
    }),
  );
  fill(element("detail"), study.series.map((curve) => curve.name));
  const several = study.timing.length > 1;
  element("timing").textContent =
    (several ? "under different conditions, to be compared within one only: " : "") + (study.timing.join("; ") || "not timed") + ".";
  drawCurves();
  drawDetails();
}

function drawCurves() {
  const before = element("before").checked;
  for (const [name, figure] of Object.entries(study.figures)) {
    const all = before && name === "sparsity"; // accuracies before fine-tuning go down far
    draw(name, figure, (trace) => !hidden.has(trace.meta.series) && (before || !trace.meta.before), all);
  }
}

function drawDetails() {
  const details = study.details[study.series[element("detail").value].name];
  draw("layers", details.layers);
  draw("training", details.training);
}

function draw(name, figure, shown = () => true, all = false) {
  const place = element(`chart-${name}`);
  if (!place) return; // no study of the page has it
  place.classList.toggle("empty", !figure);
  if (!figure) {
    Plotly.purge(place);
    place.textContent = place.dataset.empty ?? "Nothing was timed: latency_seconds is 0.";
    return;
  }
  if (place.textContent && !place.data) place.textContent = "";
  const style = getComputedStyle(document.documentElement);
  const [ink, faint, grid, paper, line] = ["--ink", "--faint", "--grid", "--paper", "--line"].map((name) =>
    style.getPropertyValue(name).trim(),
  );
  const narrow = window.innerWidth < 600;
  const traces = figure.data.map((trace) => ({
    ...trace,
    visible: !trace.meta || shown(trace),
    ...(trace.meta?.neutral && {
      line: { ...trace.line, color: faint },
      marker: { ...trace.marker, color: faint, line: { ...trace.marker?.line, color: faint } },
    }),
    ...(narrow && trace.texttemplate && { texttemplate: "" }),
  }));
  const axis = { gridcolor: grid, linecolor: line, zerolinecolor: grid, tickcolor: line };
  const layout = {
    ...figure.layout,
    height: narrow && figure.layout.height === 380 ? 320 : figure.layout.height,
    paper_bgcolor: paper,
    plot_bgcolor: paper,
    font: { color: ink, size: 12 },
    modebar: { bgcolor: "transparent", color: faint, activecolor: ink },
    hoverlabel: { bgcolor: paper, bordercolor: faint, font: { color: ink }, align: "left" },
    xaxis: { ...axis, ...figure.layout.xaxis },
    yaxis: { ...axis, ...figure.layout.yaxis, ...(all && { range: null, autorange: true }) },
    uirevision: study.title + name, // a zoom outlasts the controls
  };
  Plotly.react(place, traces, layout, {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  });
}

// ---- the table of points

const perPage = 50;
const order = { column: null, sign: 1 };
let page = 0;
let found = [];
const columnOf = new Map(data.columns.map((column, index) => [column.key, index]));
const words = data.rows.map((row) => row.join(" ").toLowerCase());
const comparisons = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  "=": (a, b) => a === b,
  ">=": (a, b) => a >= b,
  ">": (a, b) => a > b,
};

function condition(term) {
  const [, name, sign, limit] = term.match(/^(\w+)(<=|>=|<|>|=)(-?[\d.]+)$/) ?? [];
  if (!columnOf.has(name)) return (index) => words[index].includes(term);
  const column = columnOf.get(name);
  return (index) => data.rows[index][column] !== null && comparisons[sign](data.rows[index][column], Number(limit));
}

function find() {
  const terms = element("filter").value.toLowerCase().split(/\s+/).filter(Boolean).map(condition);
  found = [...data.rows.keys()].filter((index) => terms.every((fits) => fits(index)));
  if (order.column !== null) {
    const key = (index) => data.rows[index][order.column];
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    found.sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
      return order.sign * compare(a, b);
    });
  }
  page = 0;
  list();
}

function cell(value, digits) {
  if (value === null) return make("td", { className: digits === null ? "" : "number" }, "-");
  if (digits === null) return make("td", {}, value === true ? "yes" : value === false ? "" : String(value));
  return make("td", { className: "number" }, value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
}

function list() {
  const pages = Math.max(1, Math.ceil(found.length / perPage));
  element("table").tBodies[0].replaceChildren(
    ...found.slice(page * perPage, (page + 1) * perPage).map((index) =>
      make(
        "tr",
        {},
        ...data.rows[index].map((value, column) => cell(value, data.columns[column].digits)),
        make("td", {}, make("a", { href: data.links[index] }, "model.onnx")),
      ),
    ),
  );
  element("count").textContent = `${found.length.toLocaleString("en-US")} of ${data.rows.length.toLocaleString("en-US")} points`;
  element("page").textContent = `page ${page + 1} of ${pages}`;
  element("previous").disabled = page === 0;
  element("next").disabled = page === pages - 1;
}

function headings() {
  const row = element("table").tHead.rows[0];
  data.columns.forEach((column, index) => {
    const button = make("button", { type: "button", title: column.key }, column.title);
    const heading = make("th", { scope: "col", className: column.digits === null ? "" : "number" }, button);
    button.addEventListener("click", () => {
      order.sign = order.column === index ? -order.sign : 1;
      order.column = index;
      for (const other of row.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
      find();
    });
    row.append(heading);
  });
  row.append(make("th", { scope: "col" }, "file"));
}

headings();
find();
element("filter").addEventListener("input", find);
element("previous").addEventListener("click", () => { page -= 1; list(); });
element("next").addEventListener("click", () => { page += 1; list(); });
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());

if (data.studies.length) {
  element("figures").hidden = false;
  element("study-label").hidden = data.studies.length === 1;
  fill(element("study"), data.studies.map((entry) => entry.title));
  element("study").addEventListener("change", chooseStudy);
  element("detail").addEventListener("change", drawDetails);
  element("before").addEventListener("change", drawCurves);
  const again = () => { drawCurves(); drawDetails(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("(max-width: 600px)").addEventListener("change", again);
  chooseStudy();
}
