"""What moves are to reach beside QEMU, and what a run of scripts/bench move says of it: rows for docs/performance.md."""

NOT_MEASURED = "not measured"


def kind_of(contender):
    """'plain', 'tls', or None for Godwit; a contender is 'qemu plain-multifd2-20ms'."""
    words = contender.split(" ", 1)
    return words[1].split("-", 1)[0] if len(words) == 2 else None


def best(contenders, key, kind, median, choose=min):
    """QEMU's best of one kind ('plain', 'tls', or None for any) by this figure, and which configuration that was."""
    found = [(median(runs, key), name) for name, runs in contenders.items()
             if runs and kind_of(name) and kind in (None, kind_of(name)) and median(runs, key) is not None]
    return choose(found) if found else (None, None)


class Figures:
    """Ratios of one series; above 1 Godwit is better. Workloads carry their link in the name: C1@1gbit."""

    def __init__(self, results, median, fill_mib):
        self.results, self.median, self.fill_mib = results, median, fill_mib

    def ours(self, name, key):
        runs = self.results.get(name, {}).get("godwit")
        return self.median(runs, key) if runs else None

    def times(self, name, key, kind, only=""):
        """How many times better than QEMU's best, as words; None where either is missing. `only`: of those
        configurations that carry this word."""
        contenders = {n: r for n, r in self.results.get(name, {}).items() if only in n}
        mine, (theirs, who) = self.ours(name, key), best(contenders, key, kind, self.median)
        if not mine or theirs is None:
            return None
        return f"{name} {theirs / mine:.2f}x ({who.split(' ', 1)[1]})"

    def more_work(self, name):
        """How much more of the guest's work stays, beside the configuration that leaves it most."""
        mine = self.ours(name, "work_retained")
        theirs, who = best(self.results.get(name, {}), "work_retained", None, self.median, max)
        if mine is None or not theirs:
            return None
        return f"{name} {mine / theirs:.2f}x ({mine * 100:.0f} % of its work, {who.split(' ', 1)[1]} {theirs * 100:.0f} %)"

    def outrun(self, name):
        """Of a writer that QEMU cannot move: did we, did the pause fit its goal, and QEMU?"""
        contenders = self.results.get(name, {})
        runs = contenders.get("godwit")
        if not runs:
            return None
        if not all(r["moved"] for r in runs):
            return f"{name} NOT moved in {sum(not r['moved'] for r in runs)} of {len(runs)} runs"
        pause, goal = self.median(runs, "downtime_ms"), self.median(runs, "goal_ms")
        words = (f"{name} moved in {self.median(runs, 'total_ms') / 1000:.1f} s, pause {pause:.1f} ms, goal of {goal:.0f} "
                 f"{'kept' if pause <= goal else 'missed'}, writers held back up to {self.median(runs, 'held_back') * 100:.0f} %")
        for contender, theirs in contenders.items():
            if kind_of(contender) and theirs:
                word = contender.split(" ", 1)[1]
                stuck = [r for r in theirs if not r.get("moved", True)]
                words += (f"; {word} not in {max(r['wall_ms'] for r in stuck) / 1000:.0f} s" if stuck else
                          f"; {word} in {self.median(theirs, 'total_ms') / 1000:.1f} s")
        return words

    def cpu(self, name):
        """CPU seconds a GiB that the guest had filled, both ends, over TLS."""
        def a_gib(runs):
            return [(r["source_cpu_s"] + r["target_cpu_s"]) / (self.fill_mib[name] / 1024) for r in runs]
        contenders, mine = self.results.get(name, {}), self.results.get(name, {}).get("godwit")
        if not self.fill_mib.get(name):
            return None
        theirs = [(sorted(a_gib(runs))[len(runs) // 2], who) for who, runs in contenders.items() if kind_of(who) == "tls" and runs]
        if not mine or not theirs:
            return None
        ours, (least, who) = sorted(a_gib(mine))[len(mine) // 2], min(theirs)
        return f"{name} {least / ours:.2f}x ({ours:.2f} s, {who.split(' ', 1)[1]} {least:.2f} s)"


def row(metric, must, aim, parts):
    told = "; ".join(p for p in parts if p) or NOT_MEASURED
    return f"| {metric} | {must} | {aim} | {told} |"


def table(results, median, fill_mib):
    """As the rows of docs/performance.md stand, of what was measured here."""
    f = Figures(results, median, fill_mib)
    writers = ("W100", "W400", "W1000")
    return "\n".join([
        "| metric, against QEMU's best configuration by it | must | aim | measured here |", "|---|---|---|---|",
        row("guest-observed gap, idle", "4x smaller", "10x", [f.times(n, "gap_ms", None) for n in ("I1", "I4")]),
        row("guest gap under W100-W1000", "3x smaller", "8x", [f.times(n, "gap_ms", None) for n in writers]),
        row("total, plain QEMU against TLS Godwit", "1.3x faster", "1.8x", [f.times(n, "total_ms", "plain") for n in ("I1", "I4")]),
        row("total, TLS against TLS", "5x faster", "8x", [f.times(n, "total_ms", "tls") for n in ("I1", "I4")]),
        row("CPU seconds a GiB, TLS, both ends", "5x less", "7x", [f.cpu(n) for n in ("I1", "I4")]),
        row("Z16 total", "5x faster", "15x", [f.times("Z16", "total_ms", None)]),
        row("C1 over 1 Gbit/s, plain and zstd", "1.7x faster", "2.5x",
            [f.times("C1@1gbit", "total_ms", "plain", only) for only in ("single", "multifd", "zstd")]),
        row("guest work retained under W50, W400, W1000", "1.7x", "3x", [f.more_work(n) for n in ("W50", "W400", "W1000")]),
        row("bytes sent again, P50, against XBZRLE", "2x fewer", "5x",
            [f.times(n, "resent_bytes", None, "xbzrle") for n in ("P50", "P50@1gbit")]),
        row("a writer that QEMU cannot move in 60 s", "moves, goal kept or honestly missed", "within 1.1x of the theoretical residual",
            [f.outrun(n) for n in ("O400@500mbit",)])])
