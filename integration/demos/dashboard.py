"""Asks a Prometheus what every panel of a Grafana dashboard asks it, the way Grafana would.

    dashboard.py DASHBOARD PROMETHEUS START END PICTURE

Prints each panel's queries and what they give from START to END (seconds since 1970), and draws the
panels into the SVG file PICTURE. Fails if a query gives nothing, or nothing but zeros, unless
MAY_BE_QUIET says why that is well.
"""

import html
import json
import math
import re
import sys
import urllib.parse
import urllib.request

# Seconds between two looks of Prometheus, as Grafana's data source would be told; also the distance
# of two points of a graph.
SCRAPE = 1

# Legends of what may be zero, and why.
MAY_BE_QUIET = {
    "databases that take no changes": "no disk fails here",
    "loop devices": "the kernel mounts files of images from Linux 6.12 on",
}

COLORS = "#3366cc #dc3912 #ff9900 #109618 #990099 #0099c6 #dd4477 #66aa00 #b82e2e #316395".split()


def ask(prometheus, what, **parameters):
    """What Prometheus answers; a refusal raises HTTPError."""
    url = f"{prometheus}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]


def variables(dashboard, prometheus):
    """The dashboard's variables with "All" chosen, and Grafana's own."""
    interval = max(SCRAPE + SCRAPE, 4 * SCRAPE)
    values = {"__rate_interval": f"{interval}s", "__interval": f"{SCRAPE}s"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            known = ask(prometheus, f"label/{label}/values", **{"match[]": series})
            escaped = [re.escape(value).replace("\\", "\\\\") for value in known]
            values[variable["name"]] = escaped[0] if len(known) == 1 else f"({'|'.join(escaped)})"
    return values


def filled(query, values):
    """A query with the variables put in. `$1` is no variable, but for label_replace."""
    return re.sub(r"\$([a-z_]\w*)", lambda name: values[name[1]], query)


class Series:
    """What one line of a graph shows."""

    def __init__(self, found, legend):
        self.labels = found["metric"]
        self.name = re.sub(r"{{(\w+)}}", lambda label: self.labels.get(label[1], ""), legend)
        points = [(at, float(value)) for at, value in found["values"]]
        self.points = [point for point in points if math.isfinite(point[1])]

    def values(self):
        return [value for _, value in self.points]

    def highest(self):
        return max(self.values(), default=0)


def series_of(target, values, prometheus, start, end):
    query = filled(target["expr"], values)
    answer = ask(prometheus, "query_range", query=query, start=start, end=end, step=SCRAPE)
    every = [Series(found, target["legendFormat"]) for found in answer["result"]]
    return query, [series for series in every if series.points]


def scaled(value, factor, names):
    """A value in the largest of its units that leaves a digit before the point."""
    step = 0
    while abs(value) >= factor and step < len(names) - 1:
        value, step = value / factor, step + 1
    return f"{value:.3g} {names[step]}".rstrip()


def seconds(value):
    for least, factor, name in [(60, 1 / 60, "min"), (1, 1, "s"), (0.001, 1e3, "ms")]:
        if abs(value) >= least:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e6:.3g} µs" if value else "0 s"


def shown(value, unit):
    """A value as Grafana shows it, for the units that the dashboard has."""
    sizes = ["B", "KiB", "MiB", "GiB", "TiB"]
    return {
        "bytes": lambda: scaled(value, 1024, sizes),
        "binBps": lambda: scaled(value, 1024, [size + "/s" for size in sizes]),
        "percentunit": lambda: f"{value * 100:.3g} %",
        "s": lambda: seconds(value),
        "reqps": lambda: scaled(value, 1000, ["req/s", "K req/s"]),
        "ops": lambda: scaled(value, 1000, ["ops/s", "K ops/s"]),
        "short": lambda: scaled(value, 1000, ["", "K", "Mil"]),
    }[unit]()


def tell(panel, target, query, found):
    """Prints one query and what it gives; answers what is wrong with that, if anything."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    print(f"\n  {query}")
    for series in sorted(found, key=lambda series: series.name):
        values = series.values()
        numbers = "".join(f"{shown(value, unit):>13}" for value in (values[-1], min(values), max(values)))
        labels = ", ".join(f'{name}="{value}"' for name, value in sorted(series.labels.items()) if name != "__name__")
        print(f"  {numbers}   {series.name}   {{{labels}}}")
    if any(series.highest() for series in found):
        return None
    reason = MAY_BE_QUIET.get(target["legendFormat"])
    print(f"    {'(zero all the time: ' + reason + ')' if found and reason else 'NO DATA'}")
    return None if found and reason else f"{panel['title']}: {target['legendFormat']}"


def tell_alerts(prometheus, start, end):
    """Prints which alerts were pending or firing, and when."""
    print("\nAlerts, and in which seconds of this:\n")
    for found in ask(prometheus, "query_range", query="ALERTS", start=start, end=end, step=SCRAPE)["result"]:
        labels, times = found["metric"], [at - float(start) for at, _ in found["values"]]
        print(f"  {labels['alertstate']:8}{labels['alertname']:26}{times[0]:4.0f} to {times[-1]:.0f}")


def text(x, y, words, size=11, more=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" {more}>{html.escape(words)}</text>'


def ceiling(value):
    """The next round number."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 3, 5, 10) if power * step >= value)


def draw_lines(box, found, unit, span):
    """The graph of a panel: a line for each series, and three marks on the left."""
    left, top, width, height = box
    factor = 1024 ** int(math.log(max(s.highest() for s in found) or 1, 1024)) if unit in ("bytes", "binBps") else 1
    most = ceiling(max(series.highest() for series in found) / factor) * factor
    svg = []
    for part in (0, 0.5, 1):
        y = top + height * (1 - part)
        svg.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/>')
        svg.append(text(left - 5, y + 4, shown(most * part, unit), 10, 'text-anchor="end"'))
    for x, at, anchor in [(left, 0, "start"), (left + width, span[1] - span[0], "end")]:
        svg.append(text(x, top + height + 14, seconds(at), 10, f'text-anchor="{anchor}"'))
    for index, series in enumerate(found):
        dash = 'stroke-dasharray="4 2"' if index >= len(COLORS) else ""
        path, last = "", None
        for at, value in series.points:
            x = left + width * (at - span[0]) / (span[1] - span[0])
            joined = last is not None and at - last <= 1.5 * SCRAPE
            path += f"{'L' if joined else 'M'}{x:.1f} {top + height * (1 - value / most):.1f}h.01"
            last = at
        color = COLORS[index % len(COLORS)]
        svg.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5" {dash}/>')
    return svg


def draw_legend(box, found, columns):
    left, top, width, _ = box
    svg = []
    for index, series in enumerate(found):
        x, y = left + index % columns * width / columns, top + index // columns * 14
        dash = 'stroke-dasharray="4 2"' if index >= len(COLORS) else ""
        svg.append(f'<path d="M{x:.0f} {y:.0f}h14" stroke="{COLORS[index % len(COLORS)]}" stroke-width="3" {dash}/>')
        svg.append(text(x + 18, y + 4, series.name, 10))
    return svg


def draw_numbers(box, found, panel):
    """A panel that shows the last value of each series, in the colour of the dashboard's threshold."""
    left, top, width, _ = box
    defaults, svg = panel["fieldConfig"]["defaults"], []
    for index, series in enumerate(found):
        value = series.values()[-1]
        steps = defaults["thresholds"]["steps"]
        color = [step["color"] for step in steps if value >= (step["value"] or 0)][-1]
        color = {"text": "#333", "green": "#109618", "red": "#dc3912"}[color]
        x = left + width * (index + 0.5) / len(found)
        svg.append(text(x, top + 30, shown(value, defaults["unit"]), 28, f'text-anchor="middle" fill="{color}"'))
        svg.append(text(x, top + 50, series.name, 11, 'text-anchor="middle"'))
    return svg


def draw(panels, span):
    """All panels where the dashboard has them; rows are as high as their longest legend needs."""
    cell, svg, y = 52, [], 10
    for row in sorted({panel["gridPos"]["y"] for panel, _ in panels}):
        height = 0
        for panel, found in (pair for pair in panels if pair[0]["gridPos"]["y"] == row):
            x, width = panel["gridPos"]["x"] * cell + 10, panel["gridPos"]["w"] * cell - 20
            svg.append(text(x, y + 14, panel["title"], 14, 'font-weight="bold"'))
            svg.append(text(x, y + 28, panel["description"], 10, 'fill="#666"'))
            if panel["type"] == "stat":
                svg += draw_numbers((x, y + 36, width, 60), found, panel)
                height = max(height, 106)
                continue
            found.sort(key=lambda series: -series.highest())
            svg += draw_lines((x + 60, y + 42, width - 60, 130), found, panel["fieldConfig"]["defaults"]["unit"], span)
            columns = max(1, int(width // (40 + 5.2 * max(len(series.name) for series in found))))
            svg += draw_legend((x, y + 204, width, 0), found, columns)
            height = max(height, 224 + 14 * math.ceil(len(found) / columns))
        y += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * cell} {y}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *svg, "</svg>\n"])


def main():
    dashboard, prometheus, start, end, picture = sys.argv[1:]
    with open(dashboard, encoding="utf-8") as file:
        dashboard = json.load(file)
    values = variables(dashboard, prometheus)
    wrong, panels = [], []
    for panel in dashboard["panels"]:
        print(f"\n{panel['title']} ({panel['type']}, unit {panel['fieldConfig']['defaults']['unit']}): {panel['description']}")
        every = []
        for target in panel["targets"]:
            query, found = series_of(target, values, prometheus, start, end)
            wrong.append(tell(panel, target, query, found))
            every += found
        panels.append((panel, every))
    tell_alerts(prometheus, start, end)
    wrong = [what for what in wrong if what]
    if wrong:
        sys.exit("no data: " + "; ".join(wrong))
    with open(picture, "w", encoding="utf-8") as file:
        file.write(draw(panels, (float(start), float(end))))
    print(f"\n{len(panels)} panels, {sum(len(panel['targets']) for panel, _ in panels)} queries: all have data.")


main()
