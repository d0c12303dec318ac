"use strict";
const data = JSON.parse(element("data").textContent);
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
    draw(name, figure, {
      shown: (trace) => !hidden.has(trace.meta.series) && (before || !trace.meta.before),
      all,
      revision: study.title,
    });
  }
}

function drawDetails() {
  const details = study.details[study.series[element("detail").value].name];
  draw("layers", details.layers, { revision: study.title });
  draw("training", details.training, { revision: study.title });
}

// ---- the table of points

const perPage = 50;
const order = { column: null, sign: 1 };
let page = 0;
let found = [];
const shown = [...data.columns.keys()].filter((index) => !data.columns[index].constant);
const named = new Map(data.columns.flatMap((column, index) => [[column.title.toLowerCase(), index], [column.key, index]]));
const words = data.rows.map((row) => row.join(" ").toLowerCase());
const comparisons = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  "=": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  ">=": (a, b) => a >= b,
  ">": (a, b) => a > b,
};
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const names = [...named.keys()].sort((one, other) => other.length - one.length).map(escaped).join("|");
const known = new RegExp(`(?<![\\w.])(${names})\\s*(<=|>=|!=|<|>|=)\\s*([^\\s,]+)`, "g");

// the conditions of a filter, and what is wrong with it
function conditions(text) {
  const found = [];
  let problem = "";
  const rest = text.toLowerCase().replace(known, (_, name, sign, limit) => {
    const column = named.get(name);
    const wordy = data.columns[column].digits === null;
    const value = wordy ? limit : Number(limit);
    if (!wordy && Number.isNaN(value)) problem = `${name} holds numbers, "${limit}" is none`;
    else if (wordy && sign !== "=" && sign !== "!=") problem = `${name} holds words: use = or !=`;
    else {
      found.push((index) => {
        const have = data.rows[index][column];
        if (have === null) return false;
        return comparisons[sign](wordy ? (have === true ? "yes" : String(have)).toLowerCase() : have, value);
      });
    }
    return " ";
  });
  for (const term of rest.split(/[\s,]+/).filter(Boolean)) {
    const unknown = term.match(/^([^<>=!]*)(<=|>=|!=|<|>|=)/) ?? [];
    if (unknown.length) problem = `no column "${unknown[1] || rest.trim().split(/\s/)[0]}"`;
    else found.push((index) => words[index].includes(term));
  }
  return [found, problem];
}

function find() {
  const [terms, problem] = conditions(element("filter").value);
  element("problem").textContent = problem;
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

function compact(value) {
  for (const [size, unit] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return Number((value / size).toPrecision(3)) + unit;
  }
  return String(Number(value.toPrecision(3)));
}

function text(value, digits) {
  if (value === null) return "-";
  if (digits === null) return value === true ? "yes" : value === false ? "" : String(value);
  if (digits === "count") return compact(value);
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const cell = (value, digits) => make("td", { className: digits === null ? "" : "number", title: digits === "count" ? String(value) : "" }, text(value, digits));

function list() {
  const pages = Math.max(1, Math.ceil(found.length / perPage));
  element("table").tBodies[0].replaceChildren(
    ...found.slice(page * perPage, (page + 1) * perPage).map((index) =>
      make(
        "tr",
        {},
        ...shown.map((column) => cell(data.rows[index][column], data.columns[column].digits)),
        make("td", {}, data.links[index] === null ? "cleaned" : make("a", { href: data.links[index] }, "model.onnx")),
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
  const same = data.columns.flatMap((column, index) => (column.constant ? [`${column.title} ${text(data.rows[0][index], column.digits)}`] : []));
  element("constants").textContent = same.length ? `The same for all: ${same.join(", ")}.` : "";
  shown.forEach((index) => {
    const column = data.columns[index];
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
