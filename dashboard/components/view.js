// Scrolls to the tabs that this stands in once one was chosen, and follows them while its content is drawn, until the
// reader acts.
const ACTS = ["wheel", "touchstart", "pointerdown", "keydown"]
const WAIT_MS = 15000

export default function ({ parentElement }) {
  const place = parentElement.getRootNode().host ?? parentElement
  const tabs = place.closest("[data-testid=stTabs]")
  const content = place.closest("[data-testid=stMainBlockContainer]")
  if (!tabs || !content) return
  const bring = () => {
    if (tabs.getBoundingClientRect().top > innerHeight / 3) tabs.scrollIntoView({ block: "start" })
  }
  const watch = new ResizeObserver(bring)
  const stop = () => {
    watch.disconnect()
    ACTS.forEach(act => removeEventListener(act, stop, true))
  }
  ACTS.forEach(act => addEventListener(act, stop, true))
  setTimeout(stop, WAIT_MS)
  watch.observe(content)
  bring()
  return stop
}
