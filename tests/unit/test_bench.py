#!/usr/bin/env python3
"""What scripts/bench concludes from its figures, and how it draws them."""
import pathlib
import sys
import unittest
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "scripts/lib"))
import bench_growth  # noqa: E402
import bench_machine  # noqa: E402
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

    def test_memory_filled_in_another_proportion_is_not_fitted(self):
        points = [{"ram_gib": gib, "fill_mib": mib} for gib, mib in bench_growth.FILLED]
        self.assertEqual([p["ram_gib"] for p in bench_growth.whole(points)], [1, 2, 4, 8])


class Plot(unittest.TestCase):
    def test_a_plot_is_well_formed_and_its_points_lie_inside(self):
        line = plot.Line("a & b", [(1, 0.02, 0.01), (16, 90, 5)], plot.COLOURS[0], hollow=[16])
        for log in (True, False):
            panel = plot.Panel("<title>", "x", [line], [1, 16], log)
            tree = xml.etree.ElementTree.fromstring(plot.svg([panel, panel], "a note"))
            for circle in tree.iter("{http://www.w3.org/2000/svg}circle"):
                self.assertTrue(plot.LEFT <= float(circle.get("cx")) <= plot.PANEL_WIDTH - plot.RIGHT)
                self.assertTrue(plot.TOP <= float(circle.get("cy")) <= plot.PANEL_HEIGHT - plot.BOTTOM)


class Machine(unittest.TestCase):
    def test_more_memory_than_there_is_is_refused_with_both_figures(self):
        with self.assertRaisesRegex(bench_machine.Lacking, r"a dream needs \d+ MiB of memory and \d+ are to be had"):
            bench_machine.need_memory("a dream", 1 << 30)


if __name__ == "__main__":
    unittest.main()
