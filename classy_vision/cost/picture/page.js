"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const table = document.querySelector("table");
const card = document.querySelector(".card");
const said = document.querySelector("output");
const buttons = [...table.querySelectorAll("button")];
let timer;

function show(row) {
  if (!row || !row.id) return;
  for (const other of table.querySelectorAll(".on")) other.classList.remove("on");
  row.classList.add("on");
  const about = facts[row.id.slice("row-".length)];
  card.hidden = false;
  document.querySelector(".hint").hidden = true;
  card.querySelector("h2").textContent = about.name;
  card.querySelector("code").textContent = about.fork;
  card.querySelector("dl").replaceChildren(...about.facts.map(([label, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", label), element("dd", value));
    return pair;
  }));
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text);
  }
}

// Where the clipboard cannot be written to directly, as on pages that came without encryption.
function copySelected(text) {
  const line = card.querySelector("code");
  line.textContent = text;
  getSelection().selectAllChildren(line);
  const done = document.execCommand && document.execCommand("copy");
  if (done) getSelection().removeAllRanges();
  return done;
}

function tell(text) {
  said.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => { said.textContent = ""; }, 4000);
}

// One stop for the Tab key; arrows go on from there.
function stopAt(button) {
  for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
}

table.addEventListener("pointerover", (event) => show(event.target.closest("tr")));
table.addEventListener("click", async (event) => {
  const row = event.target.closest("tr");
  show(row);
  if (!event.target.closest("button")) return;
  const { fork } = facts[row.id.slice("row-".length)];
  tell(await copy(fork) ? `Copied: ${fork}` : "Press Ctrl+C or ⌘C to copy the marked line");
});
table.addEventListener("focusin", (event) => {
  stopAt(event.target);
  show(event.target.closest("tr"));
});
table.addEventListener("keydown", (event) => {
  const at = buttons.indexOf(event.target);
  const last = buttons.length - 1;
  const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  buttons[Math.max(0, Math.min(last, to))].focus();
});
stopAt(buttons[0]);
