"use strict";
// Draws the page out of the profile in #profile. All texts of data are written as text, never as
// markup. Plots are drawn when they come near the window, so that 500 features open at once.
(() => {
  const profile = JSON.parse(document.getElementById("profile").textContent);
  // What is at its default is left out of the JSON.
  const features = profile.features.map((feature) => ({
    notes: [], policies: [], output_names: [], width: 0, evaluation_rows: 0, evaluation_nulls: 0,
    ...feature,
  }));
  const hasEval = "eval" in profile.looked_at;
  const byId = (id) => document.getElementById(id);

  // Elements ----------------------------------------------------------------------------------

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  // Numbers -----------------------------------------------------------------------------------

  const whole = new Intl.NumberFormat("en-US");
  const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
  const four = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });

  function number(value) {
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e7 || size < 1e-3)) {
      return value.toExponential(2).replace("e+", "e").replace("-", "−");
    }
    return (size >= 1000 && Number.isInteger(value) ? whole : four).format(value).replace("-", "−");
  }

  function time(seconds) {
    const date = new Date(seconds * 1000);
    if (Number.isNaN(date.getTime())) return `${number(seconds)} s`;
    const text = date.toISOString().replace(/:\d\d\.\d+Z$/, "").replace("T", " ");
    return text.endsWith(" 00:00") ? text.slice(0, -6) : text;
  }

  function share(part, all) {
    if (!all) return "–";
    if (!part) return "0 %";
    const percent = (100 * part) / all;
    if (percent < 0.1) return "< 0.1 %";
    if (percent > 99.9 && part < all) return "> 99.9 %";
    return `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
  }

  function bytes(count) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = 0;
    for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
    return `${unit ? count.toFixed(count < 10 ? 1 : 0) : count} ${units[unit]}`;
  }

  const plural = (count, noun) => `${whole.format(count)} ${noun}${count === 1 ? "" : "s"}`;
  const isTime = (feature) => !!feature.histogram && feature.histogram.kind === "times";
  const inUnits = (feature) => (isTime(feature) ? time : number);
  const sum = (counts) => counts.reduce((total, count) => total + count, 0);

  // Plots -------------------------------------------------------------------------------------

  const palette = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      train: of("train"), eval: of("eval"), output: of("output"),
      text: of("muted"), line: of("line"), mono: "11px system-ui, 'DejaVu Sans', sans-serif",
    };
  };

  // Shares of each split, so that splits of different sizes can be compared.
  function shares(histogram) {
    const ends = (split) => (histogram.below || [0, 0])[split] + (histogram.above || [0, 0])[split];
    const of = (counts, split) => {
      const all = (sum(counts) + ends(split)) || 1;
      return counts.map((count) => count / all);
    };
    return {
      train: of(histogram.train, 0),
      eval: (histogram.evaluation || []).length ? of(histogram.evaluation, 1) : null,
    };
  }

  function plot(element, histogram, role, large, name) {
    const colours = palette();
    const parts = shares(histogram);
    const named = histogram.kind === "values";
    let places = histogram.edges;
    if (named) {
      // The bin of all others is shown only where there are others.
      const bins = histogram.values.length + (others(histogram) ? 1 : 0);
      parts.train.length = bins;
      if (parts.eval) parts.eval.length = bins;
      places = Array.from({ length: bins + 1 }, (_, bin) => bin);
    }
    const data = [places, [...parts.train, null]];
    const series = [{}, {
      fill: role === "output" ? colours.output : colours.train, width: 0, points: { show: false },
      paths: uPlot.paths.bars({ align: 1, size: [1, Infinity], gap: large || places.length < 24 ? 1 : 0 }),
    }];
    if (parts.eval) {
      data.push([...parts.eval, parts.eval[parts.eval.length - 1]]);
      series.push({
        stroke: colours.eval, width: large ? 1.5 : 1, points: { show: false },
        paths: uPlot.paths.stepped({ align: 1 }),
      });
    }
    const highest = Math.max(...parts.train, ...(parts.eval || []), 1e-12);
    const axis = {
      stroke: colours.text, font: colours.mono, grid: { show: false },
      ticks: { stroke: colours.line, width: 1, size: 4 }, gap: 3,
    };
    const format = histogram.kind === "times" ? undefined : (_, ticks) => ticks.map(number);
    const readout = large ? element.parentElement.querySelector(".readout") : null;
    element.replaceChildren();
    element.drawn = new uPlot({
      width: element.clientWidth || 166, height: large ? 190 : 41,
      legend: { show: false },
      padding: large ? [8, 12, 0, 0] : [2, 0, 0, 0],
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: large
        ? { y: false, drag: { x: false, y: false }, points: { show: false } } : { show: false },
      scales: {
        x: { time: histogram.kind === "times", range: [places[0], places[places.length - 1]] },
        y: { range: [0, highest * 1.02] },
      },
      axes: large ? [
        { ...axis, size: histogram.kind === "times" ? 38 : 26, values: format },
        {
          ...axis, size: 48, grid: { stroke: colours.line, width: 1 }, ticks: { show: false },
          values: (_, ticks) => ticks.map((tick) => `${four.format(tick * 100)} %`),
        },
      ] : [{ show: false }, { show: false }],
      series,
      hooks: readout ? { setCursor: [(drawn) => tell(drawn, readout, histogram, parts)] } : {},
    }, data, element);
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", describe(histogram, role, name));
  }

  function tell(drawn, readout, histogram, parts) {
    const left = drawn.cursor.left;
    if (left === undefined || left < 0) {
      readout.textContent = outside(histogram);
      return;
    }
    const at = drawn.posToVal(left, "x");
    let bin = 0;
    while (bin < parts.train.length - 1 && histogram.edges[bin + 1] <= at) bin += 1;
    const show = histogram.kind === "times" ? time : number;
    const range = `${show(histogram.edges[bin])} to ${show(histogram.edges[bin + 1])}`;
    let text = `${range}: ${share(parts.train[bin], 1)} (${whole.format(histogram.train[bin])} rows)`;
    if (parts.eval) text += `, of eval ${share(parts.eval[bin], 1)}`;
    readout.textContent = text;
  }

  function outside(histogram) {
    const [below] = histogram.below || [0];
    const [above] = histogram.above || [0];
    const parts = [];
    if (below) parts.push(`${plural(below, "row")} below`);
    if (above) parts.push(`${plural(above, "row")} above`);
    return parts.length ? `Long tails are left out: ${parts.join(", ")}.` : "";
  }

  function others(histogram) {
    return histogram.train[histogram.train.length - 1]
      + ((histogram.evaluation || []).length
        ? histogram.evaluation[histogram.evaluation.length - 1] : 0);
  }

  function describe(histogram, role, name) {
    const what = role === "output" ? `Outputs of ${name}` : `Values of ${name}`;
    if (histogram.kind === "values") {
      return `${what}; most frequent: ${histogram.values.slice(0, 3).join(", ")}`;
    }
    const show = histogram.kind === "times" ? time : number;
    const { train } = shares(histogram);
    const bin = train.indexOf(Math.max(...train));
    return `${what} from ${show(histogram.edges[0])} to ${show(histogram.edges.at(-1))}, `
      + `most from ${show(histogram.edges[bin])} to ${show(histogram.edges[bin + 1])}`;
  }

  const waiting = new Map();
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        near.unobserve(target);
        waiting.get(target)();
      }
    }
  }, { rootMargin: "300px" });

  function plotLater(element, ...what) {
    waiting.set(element, () => plot(element, ...what));
    near.observe(element);
    return element;
  }

  function again(elements) {
    for (const element of elements) {
      if (element.drawn) {
        element.drawn.destroy();
        element.drawn = undefined;
        near.observe(element);
      }
    }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => again(waiting.keys()));
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => again(document.querySelectorAll(".large")), 150);
  });

  // The overview ------------------------------------------------------------------------------

  const drifting = features.filter((feature) => feature.drift);
  const noted = features.filter((feature) => feature.notes.length);
  const withNulls = features.filter((feature) => feature.nulls);

  function card(title, figure, more) {
    return make("div", {}, make("dt", {}, title),
      make("dd", { class: "figure" }, figure), make("dd", { class: "more" }, more || "\u00a0"));
  }

  function overview() {
    byId("source").textContent = profile.source;
    byId("key").textContent = profile.key;
    const rows = Object.entries(profile.rows);
    const types = new Set(features.map((feature) => feature.type)).size;
    const bySplit = rows.map(([split, count]) => `${short.format(count)} ${split}`).join(" · ");
    const strong = drifting.filter((feature) => feature.drift === "strong").length;
    byId("cards").append(
      card("Rows", whole.format(sum(rows.map(([, count]) => count))), bySplit),
      card("Features", whole.format(features.length), `of ${plural(types, "type")}`),
      card("Output columns", whole.format(profile.width), "float32, after preprocessing"),
      card("Bytes read", bytes(profile.bytes_read), "from the source"),
      card("Drifting", hasEval ? whole.format(drifting.length) : "–",
        hasEval ? `${whole.format(strong)} of them strongly` : "no eval split"),
      card("With notes", whole.format(noted.length), "to look at"),
    );
    byId("legend").append(make("span", {}, make("i"), "train"));
    if (hasEval) byId("legend").append(make("span", {}, make("i", { class: "eval" }), "eval"));
    byId("legend").append(make("span", {}, make("i", { class: "output" }), "after the transform"));
    const looked = Object.entries(profile.looked_at)
      .map(([split, count]) => `${plural(count, `${split} row`)}`).join(" and ");
    byId("footer").append(make("p", {},
      `Statistics and histograms are of ${looked}; bars and lines are shares of their split. `
      + (hasEval ? "PSI is the population stability index of eval against train over train "
        + "deciles; it counts as drift from 0.1, and as strong from 0.25, where it is also more "
        + "than chance explains." : "")));
  }

  // The table ---------------------------------------------------------------------------------

  const columns = [
    { title: "Feature", key: (feature) => feature.name.toLowerCase() },
    { title: "Type", width: "type", key: (feature) => feature.type },
    { title: "Nulls", width: "nulls", key: (feature) => feature.nulls / (feature.rows || 1), numeric: true },
    { title: "Distinct", width: "distinct", key: (feature) => feature.distinct, numeric: true },
    { title: "Range, mean ± σ", width: "range", key: (feature) => feature.maximum ?? null, numeric: true },
    { title: "Before", width: "plot" },
    { title: "After", width: "plot" },
    { title: "Drift (PSI)", width: "psi", key: (feature) => feature.psi ?? null, numeric: true },
    { title: "Notes", width: "notes", key: (feature) => feature.notes.length, numeric: true },
  ];

  function smallPlot(feature, histogram, role) {
    const cell = make("td", { class: "plot" });
    if (histogram) {
      cell.append(plotLater(make("div", { class: "small" }), histogram, role, false, feature.name));
    } else {
      cell.append(make("span", { class: "none" },
        role === "output" && !feature.width ? "no dense output" : "–"));
    }
    return cell;
  }

  function row(feature, number_) {
    const show = inUnits(feature);
    const toggle = make("button",
      { class: "toggle", "aria-expanded": "false", title: feature.name, type: "button" },
      make("span", {}, feature.name));
    const nulls = feature.nulls / (feature.rows || 1);
    const fill = make("i");
    fill.style.width = `${100 * nulls}%`;
    const range = make("td", { class: "n" });
    if (feature.minimum !== undefined && feature.maximum !== undefined) {
      const [low, high] = [show(feature.minimum), show(feature.maximum)];
      range.append(isTime(feature) ? `${low.slice(0, 10)} … ${high.slice(0, 10)}` : `${low} … ${high}`);
      range.title = `${low} … ${high}`;
      if (feature.mean !== undefined && !isTime(feature)) {
        const spread = feature.stddev === undefined ? "" : ` ± ${number(feature.stddev)}`;
        range.append(make("span", { class: "sub", title: "mean ± standard deviation" },
          number(feature.mean) + spread));
      }
    } else {
      range.append(make("span", { class: "none" }, "–"));
    }
    const drift = make("td", { class: "n" });
    drift.append(feature.psi === undefined
      ? make("span", { class: "none" }, "–") : feature.psi.toFixed(3));
    if (feature.drift) {
      drift.append(make("br"), make("span", { class: `tag ${feature.drift}` }, feature.drift));
    }
    const notes = feature.notes.length;
    const element = make("tr", { class: "row" },
      make("th", { scope: "row" }, toggle,
        make("span", { class: "sub", title: feature.source_type }, feature.source_type)),
      make("td", { class: "type" }, feature.type),
      make("td", { class: "n" }, feature.nulls ? share(feature.nulls, feature.rows)
        : make("span", { class: "none" }, "0"),
      feature.nulls ? make("span", { class: "meter" }, fill) : null),
      make("td", { class: "n" }, (feature.distinct_is_all ? "" : "≥ ") + whole.format(feature.distinct)),
      range,
      smallPlot(feature, feature.histogram, "values"),
      smallPlot(feature, feature.outputs, "output"),
      drift,
      make("td", { class: "n" }, notes
        ? make("span", { class: "tag notes", title: feature.notes.join("\n") }, plural(notes, "note"))
        : make("span", { class: "none" }, "–")));
    const entry = { feature, element, toggle, detail: null, number: number_ };
    entry.words = [feature.name, feature.type, feature.source_type, ...feature.notes]
      .join("\n").toLowerCase();
    element.addEventListener("click", (event) => {
      if (!event.target.closest("a, input") && !getSelection().toString()) expand(entry);
    });
    return entry;
  }

  function expand(entry) {
    const open = entry.toggle.getAttribute("aria-expanded") !== "true";
    if (!entry.detail) {
      const id = `detail-${entry.number}`;
      entry.detail = make("tr", { class: "detail", id },
        make("td", { colspan: columns.length }, detail(entry.feature)));
      entry.toggle.setAttribute("aria-controls", id);
      entry.element.after(entry.detail);
    }
    entry.toggle.setAttribute("aria-expanded", String(open));
    entry.element.classList.toggle("open", open);
    entry.detail.hidden = !open;
  }

  // One feature -------------------------------------------------------------------------------

  // Of outputs, the shares are of rows: several columns may be other than 0 in one of them.
  function valueTable(histogram, role, rows) {
    const parts = shares(histogram);
    if (role === "output") parts.train = histogram.train.map((count) => count / rows);
    const labels = [...histogram.values];
    if (others(histogram)) labels.push(null);
    const highest = Math.max(...parts.train, ...(parts.eval || [])) || 1;
    const head = make("tr", {}, make("th", { scope: "col" }, role === "output" ? "Column" : "Value"),
      make("th", {}, make("span", { class: "hidden" }, "Bar")),
      make("th", { scope: "col", class: "n" }, role === "output" ? "not 0" : "train"));
    if (parts.eval) head.append(make("th", { scope: "col", class: "n" }, "eval"));
    const body = make("tbody");
    labels.forEach((label, bin) => {
      const bars = make("td", { class: "bars" });
      const bar = (kind, part) => {
        const element = make("i", { class: kind });
        element.style.width = `${(100 * part) / highest}%`;
        bars.append(element);
      };
      bar(role === "output" ? "output" : "train", parts.train[bin]);
      if (parts.eval) bar("eval", parts.eval[bin]);
      const line = make("tr", {},
        label === null ? make("td", { class: "none" }, "all others")
          : make("td", { title: label }, label === "" ? make("span", { class: "none" }, "empty text") : label),
        bars, make("td", { class: "n" }, share(parts.train[bin], 1)));
      if (parts.eval) line.append(make("td", { class: "n" }, share(parts.eval[bin], 1)));
      body.append(line);
    });
    return make("table", { class: "values" }, make("thead", {}, head), body);
  }

  function largePlot(feature, histogram, role) {
    const before = role !== "output";
    const box = make("div", {}, make("h3", {}, before ? "Before" : "After",
      make("span", {}, before ? `the values, ${feature.source_type}`
        : feature.width ? `${feature.type}, ${plural(feature.width, "column")}, train rows with a value` : feature.type)));
    if (!histogram) {
      box.append(make("p", { class: "none" }, before ? "There is nothing to count."
        : feature.width ? "The outputs were not looked at."
          : "It has no dense output: it is delivered beside the features."));
    } else if (histogram.kind === "values") {
      box.append(valueTable(histogram, role, feature.rows));
    } else {
      const element = make("div", { class: "large" });
      box.append(element, make("p", { class: "readout" }, outside(histogram)));
      plotLater(element, histogram, role, true, feature.name);
    }
    return box;
  }

  function detail(feature) {
    const show = inUnits(feature);
    const told = make("div");
    told.append(make("h3", {}, `Why ${feature.type}`), make("p", { class: "why" }, feature.why || "Not recorded."));
    if (feature.notes.length) {
      told.append(make("h3", {}, "Notes"),
        make("ul", {}, ...feature.notes.map((note) => make("li", {}, note))));
    }
    told.append(make("h3", {}, "For another outcome, write"), write(feature.override));
    if (feature.width) {
      const more = feature.width - feature.output_names.length;
      told.append(make("h3", {}, "Output columns", make("span", {}, whole.format(feature.width))),
        make("p", { class: "names" }, feature.output_names.join(", ")
          + (more > 0 ? ` and ${whole.format(more)} more` : "")));
    }
    const stats = make("dl", { class: "stats" });
    const stat = (title, value, more) => stats.append(make("div", {}, make("dt", {}, title),
      make("dd", {}, value, more ? make("small", {}, more) : null)));
    stat("Rows looked at", whole.format(feature.rows),
      feature.evaluation_rows ? `${whole.format(feature.evaluation_rows)} eval` : "");
    stat("Nulls", `${whole.format(feature.nulls)} (${share(feature.nulls, feature.rows)})`,
      feature.evaluation_rows
        ? `eval ${share(feature.evaluation_nulls, feature.evaluation_rows)}` : "");
    stat("Infinite", whole.format(feature.infinite));
    stat("Distinct", (feature.distinct_is_all ? "" : "at least ") + whole.format(feature.distinct));
    if (feature.minimum !== undefined) stat("Smallest", show(feature.minimum));
    if (feature.maximum !== undefined) stat("Largest", show(feature.maximum));
    if (feature.mean !== undefined) stat("Mean", show(feature.mean));
    if (feature.stddev !== undefined) {
      stat("Standard deviation", isTime(feature)
        ? `${number(feature.stddev / 86400)} days` : number(feature.stddev));
    }
    if (feature.psi !== undefined) {
      stat("PSI", feature.psi.toFixed(4), `chance: ${feature.psi_by_chance.toFixed(4)}`);
    }
    if (feature.ks !== undefined) stat("KS", feature.ks.toFixed(4));
    for (const { policy, rows } of feature.policies) {
      stat(policy, plural(rows, "value"), "by policy");
    }
    return make("div", {},
      make("div", { class: "plots" }, largePlot(feature, feature.histogram, "values"),
        largePlot(feature, feature.outputs, "output")),
      make("div", { class: "facts" }, told, make("div", {}, make("h3", {}, "Statistics"), stats)));
  }

  function write(line) {
    const button = make("button", { type: "button" }, "Copy");
    const code = make("code", {}, line);
    button.addEventListener("click", () => {
      // A file has no clipboard in every browser; then the line is selected instead.
      const select = () => getSelection().selectAllChildren(code);
      if (!navigator.clipboard) return select();
      return navigator.clipboard.writeText(line).then(() => {
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      }, select);
    });
    return make("div", { class: "write" }, code, button);
  }

  // Sorting, searching ------------------------------------------------------------------------

  overview();
  const entries = features.map(row);
  let sorted = null;
  let only = "All";

  function arrange() {
    const column = sorted && columns[sorted.column];
    const order = [...entries].sort((a, b) => {
      if (!column) return a.number - b.number;
      const [x, y] = [column.key(a.feature), column.key(b.feature)];
      if (x === null || y === null) return (x === null) - (y === null) || a.number - b.number;
      if (x === y) return a.number - b.number;
      return (x < y ? -1 : 1) * sorted.direction;
    });
    byId("rows").append(...order.flatMap(
      (entry) => (entry.detail ? [entry.element, entry.detail] : [entry.element])));
    headers.forEach((header, index) => {
      if (sorted && sorted.column === index) {
        header.setAttribute("aria-sort", sorted.direction > 0 ? "ascending" : "descending");
      } else {
        header.removeAttribute("aria-sort");
      }
    });
  }

  // A first press sorts texts upward and numbers downward, a second one turns that round, and a
  // third one brings what stands out to the top again.
  function sortBy(index) {
    const first = columns[index].numeric ? -1 : 1;
    if (!sorted || sorted.column !== index) sorted = { column: index, direction: first };
    else if (sorted.direction === first) sorted = { column: index, direction: -first };
    else sorted = null;
    arrange();
  }

  const headers = columns.map((column, index) => {
    const header = make("th",
      { scope: "col", class: `${column.numeric ? "n" : ""} w-${column.width || "name"}` });
    if (column.key) {
      const button = make("button", { type: "button" }, column.title);
      button.addEventListener("click", () => sortBy(index));
      header.append(button);
    } else {
      header.append(make("span", {}, column.title));
    }
    return header;
  });
  byId("head").append(...headers);

  const filters = {
    All: features, Drift: drifting, Notes: noted, Nulls: withNulls,
  };

  function narrow() {
    const wanted = byId("search").value.trim().toLowerCase().split(/\s+/);
    const kept = new Set(filters[only]);
    let shown = 0;
    for (const entry of entries) {
      const matches = kept.has(entry.feature) && wanted.every((word) => entry.words.includes(word));
      entry.element.hidden = !matches;
      if (entry.detail) {
        entry.detail.hidden = !matches || entry.toggle.getAttribute("aria-expanded") !== "true";
      }
      shown += matches;
    }
    byId("count").textContent = shown === features.length ? plural(shown, "feature")
      : `${whole.format(shown)} of ${plural(features.length, "feature")}`;
    byId("nothing").hidden = shown > 0;
  }

  for (const [name, kept] of Object.entries(filters)) {
    const button = make("button", { type: "button", "aria-pressed": String(name === only) }, name,
      make("b", {}, ` ${whole.format(kept.length)}`));
    button.addEventListener("click", () => {
      only = name;
      for (const each of byId("filters").querySelectorAll("button")) {
        each.setAttribute("aria-pressed", String(each === button));
      }
      narrow();
    });
    byId("filters").append(button);
  }
  byId("search").addEventListener("input", narrow);
  arrange();
  narrow();
})();
