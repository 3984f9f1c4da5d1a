// Rows of tokens as chips. All text is written by textContent, so no token can become markup. The Tab key stops once in a row,
// at its chosen token; arrows, Home and End lead to the others.
export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const root = parentElement.querySelector("#tokens")
  const tip = parentElement.querySelector("#tip")
  // The browser may call for older data after newer ones (see `_first_shown_at` in tokens.py); those are not drawn any more.
  if (data.made < Number(root.dataset.made ?? 0)) return
  root.dataset.made = data.made
  const held = [...root.querySelectorAll(".chip")].indexOf(root.getRootNode().activeElement)
  root.replaceChildren()
  tip.hidden = true

  const place = (chip, text) => {
    tip.textContent = text
    tip.hidden = false
    const at = chip.getBoundingClientRect()
    const around = root.getBoundingClientRect()
    const left = Math.min(at.left - around.left, around.width - tip.offsetWidth)
    tip.style.left = `${Math.max(0, left)}px`
    tip.style.top = `${at.bottom - around.top + 4}px`
  }

  data.rows.forEach((row, rowIndex) => {
    const line = document.createElement("div")
    line.className = "line"
    const label = document.createElement("div")
    label.className = "label"
    label.style.setProperty("--mark", row.colour)
    label.textContent = row.label
    label.title = row.label
    const chips = document.createElement("div")
    chips.className = "chips"
    chips.setAttribute("role", "listbox")
    chips.setAttribute("aria-label", row.label)
    row.tokens.forEach((token, index) => {
      const chip = document.createElement("button")
      chip.type = "button"
      chip.className = "chip"
      chip.textContent = token.text
      chip.setAttribute("role", "option")
      chip.setAttribute("aria-describedby", "tip")
      const chosen = data.chosen[0] === rowIndex && data.chosen[1] === index
      chip.setAttribute("aria-selected", chosen ? "true" : "false")
      chip.tabIndex = chosen || (index === 0 && data.chosen[0] !== rowIndex) ? 0 : -1
      if (token.prompt) chip.classList.add("prompt")
      chip.style.setProperty("--strength", `${Math.round(100 * Math.abs(token.strength))}%`)
      if (token.strength < 0) chip.classList.add("below")
      chip.onmouseenter = chip.onfocus = () => place(chip, token.tip)
      chip.onmouseleave = chip.onblur = () => { tip.hidden = true }
      chip.onclick = () => setTriggerValue("picked", [rowIndex, index])
      chip.onkeydown = (event) => {
        const next = {
          ArrowRight: chip.nextSibling,
          ArrowLeft: chip.previousSibling,
          Home: chips.firstChild,
          End: chips.lastChild,
        }[event.key]
        if (next) { next.focus(); event.preventDefault() }
      }
      chips.appendChild(chip)
    })
    line.append(label, chips)
    root.appendChild(line)
  })
  root.querySelectorAll(".chip")[held]?.focus()
}
