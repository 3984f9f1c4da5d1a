// Draws the figures of a document: in the theme that the reader's system asks for, and light, at one width, on paper.
// A figure in a folded part is drawn when it is unfolded; printing unfolds all.
"use strict"
const read = (name) => JSON.parse(document.getElementById(name).textContent)
const themes = read("themes")
const charts = [...document.querySelectorAll(".chart")]
const folds = [...document.querySelectorAll("details")]
const dark = matchMedia("(prefers-color-scheme: dark)")
const PAPER_WIDTH = 920
let printing = false
let folded = []

function draw(chart) {
  const figure = read(chart.id + "-data")
  const name = dark.matches && !printing ? "dark" : "light"
  const layout = {...figure.layout, ...(name === "dark" ? figure.dark : {}), template: themes[name]}
  layout.width = printing ? PAPER_WIDTH : undefined
  layout.autosize = !printing
  Plotly.react(chart, figure.data, layout, {displaylogo: false, responsive: true, plotlyServerURL: ""})
}

const shown = () => charts.filter((chart) => !chart.closest("details:not([open])"))

function drawEach(rest) {
  if (rest.length === 0) {
    document.body.dataset.drawn = shown().length
    return
  }
  draw(rest[0])
  setTimeout(() => drawEach(rest.slice(1)))
}

dark.addEventListener("change", () => shown().forEach(draw))
folds.forEach((fold) => fold.addEventListener("toggle", () => {
  if (fold.open && !printing) drawEach([...fold.querySelectorAll(".chart")])
}))
addEventListener("beforeprint", () => {
  printing = true
  folded = folds.filter((fold) => !fold.open)
  folds.forEach((fold) => fold.open = true)
  charts.forEach(draw)
})
addEventListener("afterprint", () => {
  printing = false
  folded.forEach((fold) => fold.open = false)
  shown().forEach(draw)
})
drawEach(shown())
