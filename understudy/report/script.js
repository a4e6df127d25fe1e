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
  const say = (value) => String(Number(value.toPrecision(4))).replace("-", "\u2212");

  // Pointer or arrow keys choose an epoch; a box says every line's value there.
  const explain = (figure) => {
    const chart = JSON.parse(figure.dataset.chart);
    const svg = figure.querySelector("svg");
    const epochs = [...new Set(chart.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
    const scale = (chart.right - chart.left) / (chart.high - chart.low || 1);
    const place = (epoch) => chart.left + (epoch - chart.low) * scale;
    const rule = document.createElementNS(svg.namespaceURI, "line");
    rule.setAttribute("class", "crosshair");
    rule.setAttribute("y1", chart.top);
    rule.setAttribute("y2", chart.bottom);
    const box = document.createElement("div");
    box.className = "values";
    box.setAttribute("role", "status");
    box.hidden = true;
    figure.append(box);
    let at = -1;

    const entry = (line, value) => {
      const row = document.createElement("span");
      const dot = document.createElement("i");
      const name = document.createElement("bdi");
      dot.style.background = line.colour;
      name.textContent = line.name;
      row.append(dot, name, ` ${say(value)}`);
      return row;
    };

    const show = (index) => {
      at = Math.min(Math.max(index, 0), epochs.length - 1);
      const epoch = epochs[at];
      const head = document.createElement("b");
      head.textContent = chart.names[epoch] ?? `${chart.axis} ${say(epoch)}`;
      const rows = chart.lines.flatMap((line) => {
        const point = line.points.find(([x]) => x === epoch);
        return point ? [entry(line, point[1])] : [];
      });
      box.replaceChildren(head, ...rows);
      box.hidden = false;
      const x = place(epoch);
      rule.setAttribute("x1", x);
      rule.setAttribute("x2", x);
      svg.append(rule);
      const drawn = svg.getBoundingClientRect();
      const outer = figure.getBoundingClientRect();
      const wanted = drawn.left - outer.left + x * (drawn.width / svg.viewBox.baseVal.width);
      const left = wanted > outer.width / 2 ? wanted - box.offsetWidth - 10 : wanted + 10;
      box.style.left = `${Math.max(4, Math.min(left, outer.width - box.offsetWidth - 4))}px`;
      box.style.top = `${drawn.top - outer.top + 6}px`;
    };

    const hide = () => { box.hidden = true; rule.remove(); at = -1; };

    const nearest = (event) => {
      const drawn = svg.getBoundingClientRect();
      const x = (event.clientX - drawn.left) * (svg.viewBox.baseVal.width / drawn.width);
      const distances = epochs.map((epoch) => Math.abs(place(epoch) - x));
      return distances.indexOf(Math.min(...distances));
    };

    const keys = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => epochs.length - 1 };
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", (event) => show(nearest(event)));
    svg.addEventListener("pointerdown", (event) => show(nearest(event)));
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => { if (at < 0 && svg.matches(":focus-visible")) show(epochs.length - 1); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!(event.key in keys)) return;
      event.preventDefault();
      show(keys[event.key]());
    });
  };

  for (const figure of document.querySelectorAll("figure[data-chart]")) explain(figure);
})();

(() => {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
