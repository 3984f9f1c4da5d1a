// Tells the server which parts of its axes the panels of a figure show, so that it draws these finer.
const LOOK_MS = 300

export default function ({ data, parentElement, setTriggerValue }) {
  let plot, timer
  const tell = () => {
    const part = axis => (axis?.autorange === false ? axis.range.map(Number) : null)
    const windows = {}
    for (const name of Object.keys(plot.layout).filter(name => /^xaxis\d*$/.test(name))) {
      const number = name.slice(5)
      const [x, y] = [part(plot.layout[name]), part(plot.layout[`yaxis${number}`])]
      if (x || y) windows[number || "1"] = { x, y }
    }
    const told = JSON.stringify(windows)
    if (told === parentElement.told) return
    parentElement.told = told
    setTriggerValue("windows", { title: data.title, windows })
  }
  const settle = () => {
    clearTimeout(timer)
    timer = setTimeout(tell, LOOK_MS)
  }
  const look = () => {
    const found = document.querySelector(`.st-key-${data.figure} .js-plotly-plot`)
    if (!found?.on || (found === plot && found.listeners?.("plotly_relayout").includes(settle))) return
    plot = found
    plot.on("plotly_relayout", settle)
  }
  parentElement.told = JSON.stringify(data.windows)
  parentElement.stop?.()
  const looking = setInterval(look, LOOK_MS)
  parentElement.stop = () => {
    clearInterval(looking)
    clearTimeout(timer)
    plot?.removeListener?.("plotly_relayout", settle)
  }
  look()
  return parentElement.stop
}
