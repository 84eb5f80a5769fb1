// Texts whose contrast to what is behind them is less than WCAG 2.2 asks for (success criterion 1.4.3).
const channels = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = (color) => {
  const [r, g, b] = channels(color).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if ((channels(color)[3] ?? 1) === 1) return color;
  }
  return "rgb(255, 255, 255)";
};
const faint = [];
const check = (text, color, element) => {
  const style = getComputedStyle(element);
  const [light, dark] = [luminance(color), luminance(behind(element))].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const ratio = (light + 0.05) / (dark + 0.05);
  if (ratio < (large ? 3 : 4.5)) faint.push(`${text}: ${ratio.toFixed(2)}`);
};
for (const input of document.querySelectorAll("input:not([hidden])")) {
  check(`${input.id}, typed`, getComputedStyle(input).color, input);
  if (input.placeholder) check(`${input.id}, placeholder`, getComputedStyle(input, "::placeholder").color, input);
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  const text = texts.currentNode.textContent.trim();
  if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) || !element.checkVisibility()) continue;
  if (!element.closest(":disabled")) check(text, getComputedStyle(element).color, element);
}
return faint;
