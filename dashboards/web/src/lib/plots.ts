// Looks shared by all charts.

import uPlot, { type Axis, type Options, type Plugin } from 'uplot';
import { clock } from './format';
import { colour } from './theme.svelte';
import type { SwapPoint } from './types';

export function axis(extra: Partial<Axis> = {}): Axis {
  return {
    stroke: colour('--ink-3'),
    font: '12px system-ui, sans-serif',
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
    ...extra,
  };
}

export function timeAxis(): Axis {
  return axis({
    grid: { show: false },
    size: 30,
    space: 90,
    values: (_plot, splits) => splits.map((seconds) => clock(seconds * 1000)),
  });
}

export const cursor: Options['cursor'] = {
  y: false,
  points: { size: 8 },
  drag: { x: false, y: false },
  sync: { key: 'loop', setSeries: false },
};

/** A vertical line and the version's number for each swap; numbers that would overlap are left out. */
export function swapLines(swaps: () => SwapPoint[], named: boolean): Plugin {
  return {
    hooks: {
      draw: (plot: uPlot) => {
        const { ctx: context, bbox: box } = plot;
        const ratio = uPlot.pxRatio;
        context.save();
        context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
        context.textBaseline = 'top';
        context.textAlign = 'left';
        let free = box.left;
        for (const swap of swaps()) {
          const x = Math.round(plot.valToPos(swap.t_ms / 1000, 'x', true));
          if (x < box.left || x > box.left + box.width) continue;
          const back = swap.from !== null && swap.to < swap.from;
          context.strokeStyle = colour(back ? '--failed' : '--accent');
          context.globalAlpha = named ? 0.55 : 0.3;
          context.setLineDash([4 * ratio, 4 * ratio]);
          context.lineWidth = ratio;
          context.beginPath();
          context.moveTo(x + 0.5, box.top);
          context.lineTo(x + 0.5, box.top + box.height);
          context.stroke();
          const text = `${back ? '↩ ' : ''}v${swap.to}`;
          const width = context.measureText(text).width;
          if (named && x >= free && x + width + 6 * ratio <= box.left + box.width) {
            context.globalAlpha = 1;
            context.fillStyle = colour(back ? '--failed' : '--accent');
            context.fillText(text, x + 4 * ratio, box.top - 15 * ratio);
            free = x + width + 10 * ratio;
          }
        }
        context.restore();
      },
    },
  };
}

export function seriesColour(name: string): string {
  const known = ['random', 'camper', 'hunter'].includes(name) ? name : 'other';
  return colour(`--series-${known}`);
}
