// Moves the focus into the popover that this stands in, if a key opened it; later runs find the focus there and leave it.
export default function ({ parentElement }) {
  const place = parentElement.getRootNode().host ?? parentElement
  const body = place.closest("[data-testid=stPopoverBody]")
  const before = document.activeElement
  if (body && !body.contains(before) && before?.matches(":focus-visible")) body.querySelector("input, textarea, button")?.focus()
}
