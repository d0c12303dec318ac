"use strict";
const element = (id) => document.getElementById(id);
const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// ---- figures, in the colours of the page and as wide as it

// shown: which traces; all: whether the axis goes over all of them; revision: of what a zoom outlasts the redrawing
function draw(name, figure, { shown = () => true, all = false, revision = "" } = {}) {
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
  const coarse = matchMedia("(pointer: coarse)").matches;
  const traces = figure.data.map((trace) => ({
    ...trace,
    ...(all && trace.meta?.actual && { y: trace.meta.actual }),
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
    ...(coarse && { dragmode: false }), // a swipe scrolls the page
    uirevision: revision + name,
  };
  Plotly.react(place, traces, layout, {
    responsive: true,
    displaylogo: false,
    displayModeBar: !coarse,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  }).then(() => {
    // for a mouse: with the keyboard, the table below a figure is nearer than its tools
    for (const button of place.querySelectorAll(".modebar-btn")) button.tabIndex = -1;
    describe(place, place._fullData.filter((trace) => trace.visible === true), figure.layout); // arrays, as plotly has them
  });
}

// ---- what a figure says, in words and as a table

const plain = (text) => new DOMParser().parseFromString(text ?? "", "text/html").body.textContent;
const rounded = (value) => (typeof value === "number" ? Number(value.toPrecision(4)).toLocaleString("en-US") : String(value ?? "-"));

function describe(place, traces, layout) {
  const axes = [layout.xaxis?.title?.text ?? "x", layout.yaxis?.title?.text || "y"];
  const rows = traces.flatMap((trace) => {
    if (trace.type === "treemap") return Array.from(trace.labels).map((label, index) => [plain(trace.labels[trace.ids.indexOf(trace.parents[index])]), plain(label), trace.values[index]]);
    if (trace.type === "heatmap") return Array.from(trace.y).flatMap((layer, row) => Array.from(trace.x).map((x, column) => [plain(layer), x, trace.text[row][column]]));
    if (trace.fill === "toself" || (!trace.meta?.series && trace.hoverinfo === "skip")) return [];
    const found = [];
    Array.from(trace.x).forEach((x, index) => {
      if (x !== null && x !== undefined) found.push([plain(trace.name), x, trace.meta?.actual?.[index] ?? trace.y[index]]);
    });
    return found;
  });
  const title = plain(place.closest("figure").querySelector("h2").textContent);
  const names = [...new Set(rows.map((row) => row[0]))];
  const ends = names.slice(0, 12).map((name) => {
    const own = rows.filter((row) => row[0] === name);
    const [first, last] = [own[0], own[own.length - 1]];
    return `${name}: ${rounded(first[2])} at ${rounded(first[1])}` + (own.length > 1 ? `, ${rounded(last[2])} at ${rounded(last[1])}` : "");
  });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}, ${axes[1]} against ${axes[0]}. ${ends.join("; ")}.`);
  let details = place.closest("figure").querySelector(".as-table");
  if (!details) {
    details = make("details", { className: "as-table" }, make("summary", {}, "The figure as a table"), make("div", {}));
    details.querySelector("div").tabIndex = 0;
    place.closest("figure").append(details);
  }
  const fillTable = () => {
    if (!details.open) return;
    const heading = layout.meta?.headings ?? ["curve", ...axes];
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...heading.map((text) => make("th", { scope: "col" }, text)))));
    table.append(make("tbody", {}, ...rows.slice(0, 2000).map((row) => make("tr", {}, ...row.map((value) => make("td", {}, rounded(value)))))));
    details.querySelector("div").replaceChildren(table);
  };
  details.ontoggle = fillTable;
  fillTable();
}
