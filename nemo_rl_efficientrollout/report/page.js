"use strict";
const { figures, pickers = {} } = JSON.parse(document.getElementById("data").textContent);
const settings = { responsive: true, displayModeBar: false };
const mouse = matchMedia("(pointer: fine)").matches;
const paperWidth = 660; // CSS pixels between the margins of an A4 or Letter page

// A finger on a figure scrolls the page; only a mouse zooms (a double click zooms out).
const forPointer = (layout) => ({ ...layout, dragmode: mouse ? "zoom" : false });

for (const [id, figure] of Object.entries(figures)) {
  Plotly.newPlot(id, figure.data, forPointer(figure.layout), settings);
}

for (const [id, options] of Object.entries(pickers)) {
  const picker = document.getElementById(id);
  const show = () => {
    const option = options[Number(picker.value)];
    for (const [place, text] of Object.entries(option.texts)) document.getElementById(place).textContent = text;
    for (const [place, { data, layout, said }] of Object.entries(option.figures)) {
      Plotly.react(place, data, forPointer(layout), settings);
      document.getElementById(place).setAttribute("aria-label", said);
    }
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
