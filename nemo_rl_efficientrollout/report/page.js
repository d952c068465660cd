"use strict";
const { figures, rollouts } = JSON.parse(document.getElementById("data").textContent);
const settings = { responsive: true, displayModeBar: false };
const mouse = matchMedia("(pointer: fine)").matches;
const paperWidth = 660; // CSS pixels between the margins of an A4 or Letter page

// A finger on a figure scrolls the page; only a mouse zooms (a double click zooms out).
const forPointer = (layout) => ({ ...layout, dragmode: mouse ? "zoom" : false });

for (const [id, figure] of Object.entries(figures)) {
  Plotly.newPlot(id, figure.data, forPointer(figure.layout), settings);
}

const picker = document.getElementById("rollout");
if (picker) {
  const show = () => {
    const rollout = rollouts[Number(picker.value)];
    document.getElementById("sentence").textContent = rollout.sentence;
    Plotly.react("timeline", rollout.data, forPointer(rollout.layout), settings);
  };
  picker.addEventListener("change", show);
  show();
}

// Figures are drawn in pixels, so paper needs them drawn again at its own width.
const plots = () => document.querySelectorAll(".plot.js-plotly-plot");
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => (part.open = true));
  plots().forEach((plot) => Plotly.relayout(plot, { width: paperWidth, autosize: false }));
});
addEventListener("afterprint", () => {
  plots().forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
});
