/* Where the text of every figure of the page lies: lines that overlap, and lines that are cut.
 *
 * A line of text is the quadrilateral of its letters on the screen, so that a turned label is measured along itself: of its
 * box, `slack` pixels of each side count for nothing, and of its height the part above and below the letters.
 */
(slack) => {
  const SPARE = 0.15 // of the size of the font, above and below the letters
  const shown = (node) => {
    for (let at = node; at && at.nodeType === 1; at = at.parentNode) {
      const style = getComputedStyle(at)
      if (style.display === "none" || style.visibility === "hidden" || Number(style.opacity) === 0) return false
    }
    return true
  }
  const corners = (node) => {
    const box = node.getBBox()
    const matrix = node.getScreenCTM()
    const above = slack + SPARE * parseFloat(getComputedStyle(node).fontSize)
    if (!matrix || box.width <= 2 * slack || box.height <= 2 * above) return null
    const x = [box.x + slack, box.x + box.width - slack]
    const y = [box.y + above, box.y + box.height - above]
    const ends = [[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]]]
    return ends.map(([a, b]) => [matrix.a * a + matrix.c * b + matrix.e, matrix.b * a + matrix.d * b + matrix.f])
  }
  const apart = (one, other) => {
    for (const shape of [one, other])
      for (const side of [0, 1]) {
        const [[x, y], [u, v]] = [shape[side], shape[side + 1]]
        const along = (points) => points.map(([a, b]) => a * (u - x) + b * (v - y))
        const [first, second] = [along(one), along(other)]
        if (Math.max(...first) <= Math.min(...second) || Math.max(...second) <= Math.min(...first)) return true
      }
    return false
  }
  const outside = (shape, box) =>
    shape.some(([x, y]) => x < box.left || x > box.right || y < box.top || y > box.bottom)
  const wrong = []
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    if (!plot.offsetWidth) continue
    const name = (plot.closest("[class*=st-key-figure-]")?.className.match(/st-key-figure-([\w-]+)/) ?? ["", "?"])[1]
    const frame = plot.querySelector(".main-svg").getBoundingClientRect()
    const around = plot.closest("[data-testid=stPlotlyChart]").getBoundingClientRect()
    const texts = []
    const written = [...plot.querySelectorAll(".main-svg text")].flatMap((node) => {
      const lines = [...node.querySelectorAll("tspan.line")]
      return lines.length ? lines : [node]
    })
    for (const node of written) {
      if (!node.textContent.trim() || node.closest(".hoverlayer, .modebar") || !shown(node)) continue
      const shape = corners(node)
      if (!shape) continue
      const text = node.textContent
      const legend = node.closest(".legend")
      for (const box of [frame, around, legend ? legend.querySelector("rect.bg").getBoundingClientRect() : frame])
        if (outside(shape, box)) { wrong.push(`${name}: "${text}" is cut`); break }
      const whole = node.closest("text")
      const where = [...whole.classList].join(".") || whole.parentNode.getAttribute("class")
      for (const other of texts)
        if (!apart(shape, other.shape)) wrong.push(`${name}: "${other.text}" (${other.where}) lies on "${text}" (${where})`)
      texts.push({ shape, text, where })
    }
  }
  return wrong
}
