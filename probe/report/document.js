// Draws the figures of a document: in the theme that the reader's system asks for, and light, at one width, on paper.
"use strict"
const read = (name) => JSON.parse(document.getElementById(name).textContent)
const themes = read("themes")
const charts = [...document.querySelectorAll(".chart")]
const dark = matchMedia("(prefers-color-scheme: dark)")
const PAPER_WIDTH = 920
let printing = false

function draw(chart) {
  const figure = read(chart.id + "-data")
  const name = dark.matches && !printing ? "dark" : "light"
  const layout = {...figure.layout, ...(name === "dark" ? figure.dark : {}), template: themes[name]}
  layout.width = printing ? PAPER_WIDTH : undefined
  layout.autosize = !printing
  Plotly.react(chart, figure.data, layout, {displaylogo: false, responsive: true, plotlyServerURL: ""})
}

function drawFrom(index) {
  if (index >= charts.length) {
    document.body.dataset.drawn = charts.length
    return
  }
  draw(charts[index])
  setTimeout(() => drawFrom(index + 1))
}

dark.addEventListener("change", () => charts.forEach(draw))
addEventListener("beforeprint", () => {
  printing = true
  charts.forEach(draw)
})
addEventListener("afterprint", () => {
  printing = false
  charts.forEach(draw)
})
drawFrom(0)
