"use strict";
// The page is complete without this file: it adds sorting, the choice of theme, and open details on paper.

(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  // A page opened from disk may not be allowed to remember anything.
  const remembered = () => { try { return localStorage.getItem("understudy-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("understudy-theme", theme); } catch { /* not kept */ } };

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { toggle.textContent = isDark() ? "Light theme" : "Dark theme"; };

  const saved = remembered();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  toggle.hidden = false;
  label();
  system.addEventListener("change", label);
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    label();
  });
})();

(() => {
  const sortKey = (row, column, numeric) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent.trim();
    return cell.hasAttribute("data-value") ? Number(cell.dataset.value) : null;
  };

  // What is missing stays at the end in both directions.
  const compare = (a, b, direction) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  };

  const sort = (table, head, column) => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const numeric = head.classList.contains("number");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [sortKey(row, column, numeric), row]);
    rows.sort((a, b) => compare(a[0], b[0], ascending ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.title = "Sort by this column";
      button.addEventListener("click", () => sort(table, head, column));
      head.append(button);
    });
  }
})();

(() => {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
