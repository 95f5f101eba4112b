"""Plots as SVG, by hand: panels side by side, each with lines of medians, their spread as a bar, and a legend."""
import html
import math

PANEL_WIDTH, PANEL_HEIGHT = 520, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 44, 104
LEGEND_ROW = 17
COLOURS = ("#b5452c", "#2c6fb5", "#3a8a3a", "#8a5a9a")


def number(value):
    """As few digits as tell it: 0.02, 1.5, 16."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


class Line:
    """`points` are (x, y, spread). A dashed line is a guide: without marks, without spread."""

    def __init__(self, label, points, colour, dashed=False, hollow=()):
        self.label, self.points, self.colour = label, sorted(points), colour
        self.dashed, self.hollow = dashed, set(hollow)


class Panel:
    def __init__(self, title, x_label, lines, x_ticks, log):
        self.title, self.x_label, self.lines, self.x_ticks, self.log = title, x_label, lines, x_ticks, log
        xs = [*x_ticks, *(x for line in lines for x, _, _ in line.points)]
        ys = [y for line in lines for _, y, _ in line.points]
        ends = [y + s for line in lines for _, y, s in line.points] + [y - s for line in lines for _, y, s in line.points]
        if log:
            self.x0, self.x1 = min(xs), max(xs)
            # A tick at or beyond every point: 1, 2, 5 of each power of ten.
            self.y_ticks = self._log_ticks(min(e for e in [*ends, *ys] if e > 0), max(ends))
        else:
            self.x0, self.x1 = min(xs), max(xs)
            self.y_ticks = self._linear_ticks(max(ends))
        self.y0, self.y1 = self.y_ticks[0], self.y_ticks[-1]

    @staticmethod
    def _log_ticks(low, high):
        steps = [m * 10.0 ** e for e in range(-6, 7) for m in (1, 2, 5)]
        first = max([i for i, s in enumerate(steps) if s <= low], default=0)
        last = min([i for i, s in enumerate(steps) if s >= high], default=len(steps) - 1)
        ticks = steps[first:max(last, first + 1) + 1]
        if len(ticks) > 9:  # powers of ten are enough of a long axis, and its two ends
            ticks = [t for i, t in enumerate(ticks) if i in (0, len(ticks) - 1) or
                     math.isclose(10 ** round(math.log10(t)), t)]
        return ticks

    @staticmethod
    def _linear_ticks(high):
        step = 10.0 ** math.floor(math.log10(high)) if high > 0 else 1
        step = next(s for s in (step / 5, step / 2, step, 2 * step) if high / s <= 6)
        return [i * step for i in range(math.ceil(high / step) + 1)]

    def x(self, value):
        share = (math.log(value / self.x0) / math.log(self.x1 / self.x0) if self.log
                 else (value - self.x0) / (self.x1 - self.x0))
        return LEFT + share * (PANEL_WIDTH - LEFT - RIGHT)

    def y(self, value):
        if self.log:
            value = min(max(value, self.y0), self.y1)
            share = math.log(value / self.y0) / math.log(self.y1 / self.y0)
        else:
            share = (max(value, 0) - self.y0) / (self.y1 - self.y0)
        return PANEL_HEIGHT - BOTTOM - share * (PANEL_HEIGHT - TOP - BOTTOM)

    def svg(self):
        out = [f'<text x="{LEFT}" y="24" font-size="13" font-weight="bold">{html.escape(self.title)}</text>']
        for tick in self.y_ticks:
            y = self.y(tick)
            out.append(f'<line x1="{LEFT}" x2="{PANEL_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                       f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)} s</text>')
        bottom = PANEL_HEIGHT - BOTTOM
        for tick in self.x_ticks:
            x = self.x(tick)
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="#888"/>'
                       f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{number(tick)}</text>')
        out.append(f'<text x="{(LEFT + PANEL_WIDTH - RIGHT) / 2:.1f}" y="{bottom + 33}" text-anchor="middle">'
                   f'{html.escape(self.x_label)}</text>')
        for i, line in enumerate(self.lines):
            out += self._line(line)
            column, row = i % 2, i // 2
            out += self._legend(line, LEFT + column * 215, bottom + 54 + row * LEGEND_ROW)
        return "\n".join(out)

    def _line(self, line):
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y, _ in line.points)
        dash = ' stroke-dasharray="4 4"' if line.dashed else ""
        out = [f'<polyline fill="none" stroke="{line.colour}" stroke-width="{1 if line.dashed else 2}"{dash} '
               f'points="{points}"/>']
        for x, y, spread in [] if line.dashed else line.points:
            cx, low, high = self.x(x), self.y(y - spread), self.y(y + spread)
            out.append(f'<line x1="{cx:.1f}" x2="{cx:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{line.colour}"/>'
                       f'<circle cx="{cx:.1f}" cy="{self.y(y):.1f}" r="3.5" stroke="{line.colour}" '
                       f'fill="{"white" if x in line.hollow else line.colour}"/>')
        return out

    @staticmethod
    def _legend(line, x, y):
        dash = ' stroke-dasharray="4 4"' if line.dashed else ""
        return [f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" stroke="{line.colour}" stroke-width="2"{dash}/>'
                f'<text x="{x + 28}" y="{y + 4}">{html.escape(line.label)}</text>']


def svg(panels, note=""):
    width, height = PANEL_WIDTH * len(panels), PANEL_HEIGHT + (18 if note else 0)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
           f'font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>']
    for i, panel in enumerate(panels):
        out += [f'<g transform="translate({i * PANEL_WIDTH} 0)">', panel.svg(), "</g>"]
    if note:
        out.append(f'<text x="{LEFT}" y="{height - 10}" fill="#666" font-size="11">{html.escape(note)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
