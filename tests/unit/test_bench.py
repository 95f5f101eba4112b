#!/usr/bin/env python3
"""What scripts/bench concludes from its figures, and how it draws them."""
import pathlib
import sys
import unittest
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "scripts/lib"))
import bench_disks  # noqa: E402
import bench_goals  # noqa: E402
import bench_growth  # noqa: E402
import bench_link  # noqa: E402
import bench_machine  # noqa: E402
import bench_move  # noqa: E402
import plot  # noqa: E402


def grown(power, fixed=0.0, spread=0.0):
    return [(x, fixed + x ** power, spread) for x in (1, 2, 4, 8)]


class Growth(unittest.TestCase):
    def test_a_power_is_found_exactly(self):
        for power in (0.5, 1.0, 1.5):
            slope, error = bench_growth.exponent(grown(power))
            self.assertAlmostEqual(slope, power)
            self.assertLess(error, 1e-9)

    def test_what_grows_linearly_is_not_called_worse(self):
        self.assertFalse(bench_growth.is_worse_than_linear(grown(1.0)))
        self.assertFalse(bench_growth.is_worse_than_linear(grown(1.0, fixed=3)))

    def test_what_grows_faster_is_called_worse_even_behind_a_fixed_part(self):
        self.assertTrue(bench_growth.is_worse_than_linear(grown(1.3)))
        self.assertTrue(bench_growth.is_worse_than_linear(grown(2.0, fixed=10)))
        self.assertIn("WORSE", bench_growth.verdict("total", grown(1.3)))

    def test_a_spread_that_leaves_it_open_is_no_finding(self):
        self.assertFalse(bench_growth.is_worse_than_linear([(1, 1, 0.5), (2, 2.3, 1)]))

    def test_all_sizes_are_filled_in_the_same_proportion(self):
        self.assertEqual(len({mib / gib for gib, mib in bench_growth.FILLED}), 1)


class Plot(unittest.TestCase):
    def test_a_plot_is_well_formed_and_its_points_lie_inside(self):
        line = plot.Line("a & b", [(1, 0.02, 0.01), (16, 90, 5)], plot.COLOURS[0], hollow=[16])
        for log in (True, False):
            panel = plot.Panel("<title>", "x", [line], [1, 16], log)
            tree = xml.etree.ElementTree.fromstring(plot.svg([panel, panel], "a note"))
            for circle in tree.iter("{http://www.w3.org/2000/svg}circle"):
                self.assertTrue(plot.LEFT <= float(circle.get("cx")) <= plot.PANEL_WIDTH - plot.RIGHT)
                self.assertTrue(plot.TOP <= float(circle.get("cy")) <= plot.PANEL_HEIGHT - plot.BOTTOM)


def run(**figures):
    return {"moved": True, **figures}


class Goals(unittest.TestCase):
    def told(self, metric, results, fill_mib=None):
        rows = bench_goals.table(results, bench_move.median, fill_mib or {}).splitlines()
        return next(r for r in rows if r.startswith(f"| {metric}")).split(" | ")[3].rstrip(" |")

    def test_what_was_not_measured_is_said_so(self):
        self.assertEqual(self.told("Z16 total", {}), "not measured")
        self.assertEqual(self.told("Z16 total", {"Z16": {"godwit": [run(total_ms=30)]}}), "not measured")

    def test_the_best_of_qemu_is_chosen_by_figure_and_kind(self):
        results = {"I1": {"godwit": [run(total_ms=400)], "qemu plain-single-20ms": [run(total_ms=500)],
                          "qemu plain-multifd2-20ms": [run(total_ms=300)], "qemu tls-single-20ms": [run(total_ms=2000)]}}
        self.assertEqual(self.told("total, plain", results), "I1 0.75x (plain-multifd2-20ms)")
        self.assertEqual(self.told("total, TLS", results), "I1 5.00x (tls-single-20ms)")

    def test_cpu_counts_both_ends_a_filled_gib(self):
        results = {"I1": {"godwit": [run(source_cpu_s=0.2, target_cpu_s=0.3)],
                          "qemu tls-multifd2-20ms": [run(source_cpu_s=2.0, target_cpu_s=3.0)]}}
        self.assertEqual(self.told("CPU", results, {"I1": 512}), "I1 10.00x (1.00 s, tls-multifd2-20ms 10.00 s)")

    def test_work_is_compared_with_the_configuration_that_leaves_most(self):
        results = {"W50": {"godwit": [run(work_retained=0.9)], "qemu plain-single-20ms": [run(work_retained=0.6)],
                           "qemu plain-multifd2-20ms": [run(work_retained=0.3)]}}
        self.assertIn("1.50x", self.told("guest work", results))

    def test_who_did_not_move_in_time_is_named_whoever_it_is(self):
        ours = run(total_ms=9000, downtime_ms=120, goal_ms=100, held_back=0.9)
        stuck = {"moved": False, "total_ms": None, "wall_ms": 60010}
        told = self.told("a writer", {"O400@500mbit": {"godwit": [ours], "qemu plain-single-300ms": [stuck]}})
        self.assertIn("goal of 100 missed", told)
        self.assertIn("plain-single-300ms not in 60 s", told)
        self.assertIn("NOT moved in 1 of 2", self.told("a writer", {"O400@500mbit": {"godwit": [ours, stuck]}}))


class Workloads(unittest.TestCase):
    def test_a_workload_may_go_over_a_link_of_a_rate(self):
        over = bench_move.workload_named("O400@500mbit")
        self.assertEqual((over.link.bits_per_s, over.limit_s, over.policy), (500_000_000, 60, "finish"))
        self.assertEqual(bench_move.WORKLOADS["O400"].link, bench_link.LOOPBACK)
        for name in ("C1@", "C1@fast", "C1@0gbit", "Z99", "Z99@1gbit"):
            self.assertIsNone(bench_move.workload_named(name), name)

    def test_every_workload_of_the_table_has_configurations_that_there_are(self):
        for name in bench_move.TABLE.split(","):
            workload = bench_move.workload_named(name)
            self.assertTrue(workload and workload.configs and set(workload.configs) <= set(bench_move.CONFIGS), name)


class Disks(unittest.TestCase):
    @staticmethod
    def moved(wall_ms, p99_ms):
        return {"moved": True, "wall_ms": wall_ms, "p99_ms": p99_ms}

    def test_each_qemu_is_compared_by_total_and_by_the_guests_writes(self):
        contenders = {"godwit": [self.moved(800, 3), self.moved(700, 1), self.moved(750, 2)],
                      "qemu plain": [self.moved(1000, 2)], "qemu tls": [self.moved(900, 1)]}
        self.assertEqual(bench_disks.verdicts(contenders), [
            "  total beside qemu plain: 0.75 x (goal 0.8): reached", "  p99 of a write beside qemu plain: 1.00 x (goal 1.0): reached",
            "  total beside qemu tls: 0.83 x (goal 0.8): MISSED", "  p99 of a write beside qemu tls: 2.00 x (goal 1.0): MISSED"])

    def test_a_mirror_that_never_is_ready_is_told(self):
        contenders = {"godwit": [self.moved(1, 1)], "qemu plain": [{"moved": False}]}
        self.assertEqual(bench_disks.verdicts(contenders), [
            "  qemu plain: its mirror was not ready within 60 s in 1 of 1 runs"])
        self.assertIn("qemu plain (1)", bench_disks.table({"random": contenders | {"godwit": []}}))

    def test_who_was_not_measured_is_compared_with_nobody(self):
        self.assertEqual(bench_disks.verdicts({"godwit": [], "qemu plain": [self.moved(1, 1)]}), [])
        self.assertEqual(bench_disks.verdicts({"godwit": [self.moved(1, 1)], "qemu plain": []}), [])


class Machine(unittest.TestCase):
    def test_more_memory_than_there_is_is_refused_with_both_figures(self):
        with self.assertRaisesRegex(bench_machine.Lacking, r"a dream needs \d+ MiB of memory and \d+ are to be had"):
            bench_machine.need_memory("a dream", 1 << 30)


if __name__ == "__main__":
    unittest.main()
