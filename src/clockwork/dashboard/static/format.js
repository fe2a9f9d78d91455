// Text for numbers, colours of models, and small helpers for elements.

export const $ = (id) => document.getElementById(id);

/** Return a duration in milliseconds as text with three significant digits. */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  const size = Math.abs(ms);
  if (size >= 59_995) return `${digits(ms / 60_000)} min`;
  if (size >= 999.5) return `${digits(ms / 1000)} s`;
  if (size >= 0.9995 || size === 0) return `${digits(ms)} ms`;
  return `${digits(ms * 1000)} µs`;
}

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.5 || value === 0 ? 0 : size >= 9.95 ? 1 : 2);
}

/** Return a rate or count as text. */
export function count(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 9_999.5) return Math.round(value).toLocaleString("en");
  if (value >= 99.5 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(1);
}

/** Return a share as a percentage. Only exactly 1 is shown as 100 %. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  if (share === 1 || share === 0) return `${share * 100} %`;
  const value = share * 100;
  return value > 99.99 ? ">99.99 %" : `${value.toFixed(value < 0.1 || value > 99.9 ? 2 : 1)} %`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value >= 99.5 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Return text for a value such as `would_delay_others`. */
export const words = (value) => value.replaceAll("_", " ");

// Hues that follow each other by the golden angle are far apart, however many models there are.
const hues = new Map();

/** Return the hue of a model. A model keeps its hue as long as the page is open. */
export function hue(model) {
  if (!hues.has(model)) hues.set(model, Math.round((205 + hues.size * 137.508) % 360));
  return hues.get(model);
}

export function colour(model, alpha = 1) {
  return `hsl(${hue(model)} ${theme.saturation} ${theme.lightness} / ${alpha})`;
}

/** The colours of the style sheet, for canvases. They change with the colour scheme of the system. */
export const theme = {};

export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["panel", "line", "soft", "text", "muted", "late", "accent", "shade", "bar-text"]) {
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  }
  theme.lightness = style.getPropertyValue("--model-lightness").trim();
  theme.saturation = style.getPropertyValue("--model-saturation").trim();
}

/** Return a new element with attributes and children. A text child is never parsed as HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function swatch(model) {
  const element = make("i", { class: "swatch", "aria-hidden": "true" });
  element.style.background = colour(model);
  return element;
}

/** Set the text of an element if it differs, so that the browser need not lay out the page again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace the rows of a table body only if their text has changed. `rows` are arrays of text or elements. */
export function setRows(body, rows, signature) {
  if (body.dataset.signature === signature) return;
  body.dataset.signature = signature;
  body.replaceChildren(...rows());
}
