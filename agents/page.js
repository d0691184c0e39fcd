"use strict";
// Asks for the page again and puts in what differs: whatever has the focus, is scrolled to, open or
// selected stays as it is.
(() => {
const PERIOD = 5000, shown = document.getElementById("page"), gone = document.getElementById("gone");
let last = Date.now(), timer = 0;
const alike = (a, b) => a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
const morph = (old, now) => {
if (old.nodeType !== 1) { if (old.nodeValue !== now.nodeValue) old.nodeValue = now.nodeValue; return; }
for (const a of [...old.attributes]) if (a.name !== "open" && !now.hasAttribute(a.name)) old.removeAttribute(a.name);
for (const a of now.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
const wanted = new Set([...now.children].map(c => c.id));
for (const c of [...old.children]) if (c.id && !wanted.has(c.id)) c.remove();
const mine = new Map([...old.children].map(c => [c.id, c]));
let at = old.firstChild;
for (const next of now.childNodes) {
const known = next.id && mine.get(next.id);
if (known && known !== at) { old.insertBefore(known, at); at = known; }
if (at && alike(at, next)) { morph(at, next); at = at.nextSibling; }
else old.insertBefore(document.importNode(next, true), at);
}
while (at) { const next = at.nextSibling; at.remove(); at = next; }
};
const tell = () => {
const age = Math.round((Date.now() - last) / 1000), old = age > 2 * PERIOD / 1000;
gone.hidden = !old;
shown.classList.toggle("old", old);
const text = gone.firstElementChild, told = age < 60 ? `${age} s` : age < 7200 ? `${Math.floor(age / 60)} min` : `${Math.floor(age / 3600)} h`;
if (old && !text.textContent) text.textContent = gone.dataset.text;
if (!old) text.textContent = "";
gone.lastElementChild.textContent = told;
};
const refresh = async () => {
clearTimeout(timer);
try {
const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PERIOD) });
const page = new DOMParser().parseFromString(await answer.text(), "text/html"), now = page.getElementById("page");
if (answer.ok && now) {
if (now.dataset.edition !== shown.dataset.edition) { location.reload(); return; }
morph(shown, now);
last = Date.now();
}
} catch { /* tell() says for how long */ }
tell();
timer = setTimeout(refresh, PERIOD);
};
timer = setTimeout(refresh, PERIOD);
setInterval(tell, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
})();
