// What a test asks of a page that is open: facts(), overflow() and faint(), each plain data.

function within(node, found = []) {
  for (const element of node.querySelectorAll("*")) {
    found.push(element)
    if (element.shadowRoot) within(element.shadowRoot, found)
  }
  return found
}

const named = (element) => element.outerHTML.slice(0, 160)

async function facts() {
  const images = [...document.images].filter((image) => image.hasAttribute("src"))
  for (const image of images) image.loading = "eager"
  await Promise.all(images.map((image) => image.decode().catch(() => null)))
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise
  const marks = ["img[src=x]", "[onload]", "[onerror]", "[onclick*=alert]", "a[href^='javascript:' i]", ".cell_output mjx-container", ".name mjx-container"]
  return {
    blank: images.filter((image) => image.naturalWidth === 0).map(named),
    images: images.length,
    nameless: images.filter((image) => !image.hasAttribute("alt") || (image.alt === "" && image.closest("figure, .cell_output"))).map(named),
    links: [...document.querySelectorAll("a[href]")].map((link) => link.href),
    injected: within(document).filter((element) => marks.some((mark) => element.matches(mark)) || (element.matches("style, iframe, svg") && /alert\(1\)/.test(element.outerHTML))).map(named),
    alerts: window.alerts,
    unlabelled: within(document).filter((element) => element.matches("button, input:not([type=hidden]), select") && element.checkVisibility() && !label(element)).map(named),
    text: document.body.innerText,
  }
}

const label = (element) => [element.getAttribute("aria-label"), element.title, element.textContent, element.placeholder, element.labels?.[0]?.textContent,
  element.getRootNode().querySelector("label")?.textContent].some((text) => text?.trim())

// Elements that make the page wider than the window, so that it scrolls sideways.
function overflow() {
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth <= width + 1) return []
  const wide = [...document.body.querySelectorAll("*")].filter((element) => {
    const {right, width: own} = element.getBoundingClientRect()
    if (right <= width + 1 || own === 0) return false
    for (let up = element.parentElement; up && up !== document.body; up = up.parentElement) if (getComputedStyle(up).overflowX !== "visible") return false
    return true
  })
  return [`${document.documentElement.scrollWidth} of ${width} pixels`, ...wide.slice(0, 5).map(named)]
}

// Texts whose contrast to their background is below that of WCAG AA: 4.5, or 3 for large letters.
async function faint() {
  document.head.appendChild(document.createElement("style")).textContent = "* { transition: none !important }"
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true})
  const known = new Map()
  const rgba = (colour) => {
    if (!known.has(colour)) {
      context.clearRect(0, 0, 1, 1)
      context.fillStyle = colour
      context.fillRect(0, 0, 1, 1)
      known.set(colour, [...context.getImageData(0, 0, 1, 1).data])
    }
    return known.get(colour)
  }
  const over = ([r, g, b, a], under) => [r, g, b].map((value, c) => (value * a + under[c] * (255 - a)) / 255)
  const behind = (element) => element ? over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement)) : rgba("Canvas").slice(0, 3)
  const light = (rgb) => rgb.map((value) => value / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [], seen = new Set()
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element)
    if (seen.has(element) || !walker.currentNode.data.trim() || !element.checkVisibility({opacityProperty: true, visibilityProperty: true}) || element.closest("[aria-hidden=true], :disabled, script, style")) continue
    seen.add(element)
    const {width, height} = element.getBoundingClientRect()
    if (width <= 1 || height <= 1) continue
    const back = behind(element), [one, other] = [light(back), light(over(rgba(style.color), back))].sort((a, b) => b - a)
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700), ratio = (one + 0.05) / (other + 0.05)
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${style.color} on ${back.map(Math.round)}: ${walker.currentNode.data.trim().slice(0, 40)} ${element.cloneNode().outerHTML.slice(0, 120)}`)
  }
  return found
}
