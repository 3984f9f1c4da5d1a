// Draws the figures of a page in the colours of its theme, anew when the reader changes the theme.
const draw = () => {
  for (const figure of document.querySelectorAll("figure.curves")) {
    const { data, layout, themes } = JSON.parse(figure.querySelector("script").textContent);
    const template = themes[document.body.dataset.mdColorScheme] ?? themes.default;
    Plotly.react(figure.querySelector("div"), data, { ...layout, template }, { displaylogo: false, responsive: true });
  }
};
draw();
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
