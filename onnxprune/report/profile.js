"use strict";
const data = JSON.parse(element("data").textContent);

function drawAll() {
  for (const [name, figure] of Object.entries(data)) draw(name, figure);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
matchMedia("(max-width: 600px)").addEventListener("change", drawAll);
drawAll();
