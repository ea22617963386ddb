// Tables of the class "searchable": a box that hides the rows without its words, and headings that sort.
"use strict";

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent;
}

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b) : difference;
}

function sort(table, column, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].sort((one, two) => {
    const [a, b] = [valueOf(one, column), valueOf(two, column)];
    const order = compare(a, b);
    return down && a !== "" && b !== "" ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

function addSearch(table) {
  const box = document.createElement("input");
  box.type = "search";
  box.className = "table-search";
  box.placeholder = "dinov3 small apache";
  box.setAttribute("aria-label", "Show only the rows with these words");
  const count = document.createElement("span");
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => (row.hidden = !words.every((word) => texts[i].includes(word))));
    count.textContent = ` ${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  box.addEventListener("input", show);
  table.parentElement.before(box, count);
  show();
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.searchable")) {
    addSearch(table);
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.tabIndex = 0;
      heading.addEventListener("click", () => sort(table, column, heading));
      heading.addEventListener("keydown", (event) => event.key === "Enter" && sort(table, column, heading));
    });
  }
});
