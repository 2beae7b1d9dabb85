// From the history to the columns that the charts draw. All pure.

import type { AlignedData } from 'uplot';
import type { History, LatencyPoint, LossPoint, ScorePoint, SwapPoint } from './types';

const ANCHORS = ['random', 'camper', 'hunter'];

/** Fixed opponents in the scores: the known anchors first, then others by name; other versions are left out. */
export function anchorsOf(scores: ScorePoint[]): string[] {
  const seen = new Set(scores.map((point) => point.opponent).filter((name) => !name.includes('@')));
  const known = ANCHORS.filter((name) => seen.has(name));
  const others = [...seen].filter((name) => !ANCHORS.includes(name)).sort();
  return [...known, ...others].slice(0, 6);
}

/** The newest judged score of each version against each opponent. */
export function latestScores(scores: ScorePoint[]): Map<string, ScorePoint> {
  const latest = new Map<string, ScorePoint>();
  for (const point of scores) {
    if (point.source === 'live') continue;
    const key = `${point.version} ${point.opponent}`;
    const known = latest.get(key);
    if (!known || known.t_ms <= point.t_ms) latest.set(key, point);
  }
  return latest;
}

export interface ScoreChart {
  anchors: string[];
  /** Columns: time in seconds, then for each anchor the champion's line, then for each anchor all versions' dots. */
  data: AlignedData;
}

/**
 * The champion's score against each anchor as a step that changes when the champion changes, and a dot for every
 * judged version at the time of its trial.
 */
export function scoreChart(history: Pick<History, 'scores' | 'swaps'>, nowMs: number): ScoreChart {
  const anchors = anchorsOf(history.scores);
  const latest = latestScores(history.scores);
  const dots = [...latest.values()].filter((point) => anchors.includes(point.opponent));
  const swaps = [...history.swaps].sort((a, b) => a.t_ms - b.t_ms);
  if (dots.length === 0) return { anchors, data: [[], ...anchors.map(() => []), ...anchors.map(() => [])] };
  const times = [...new Set([...dots.map((dot) => dot.t_ms), ...swaps.map((swap) => swap.t_ms), nowMs])].sort((a, b) => a - b);
  const place = new Map(times.map((time, index) => [time, index]));
  const lines = anchors.map((anchor) => {
    let next = 0;
    // Before the first known move, its `from` was champion.
    let champion: number | null = swaps[0]?.from ?? null;
    let value: number | null = null;
    return times.map((time) => {
      for (let swap = swaps[next]; swap && swap.t_ms <= time; swap = swaps[++next]) champion = swap.to;
      const score = champion === null ? undefined : latest.get(`${champion} ${anchor}`);
      // A version may be champion before its trial against an anchor is done: the line waits for it.
      value = score && (score.t_ms <= time || next > 0) ? score.score : null;
      return value;
    });
  });
  const clouds = anchors.map((anchor) => {
    const column: (number | null)[] = times.map(() => null);
    for (const dot of dots) {
      if (dot.opponent === anchor) column[place.get(dot.t_ms) ?? 0] = dot.score;
    }
    return column;
  });
  return { anchors, data: [times.map((time) => time / 1000), ...lines, ...clouds] as AlignedData };
}

/** The running version's score against each anchor, newest. */
export function currentScores(chart: ScoreChart): { anchor: string; score: number | null }[] {
  return chart.anchors.map((anchor, index) => {
    const column = chart.data[index + 1];
    const score = column?.[column.length - 1];
    return { anchor, score: score ?? null };
  });
}

/** Loss and its exponential mean; `weight` is that of the newest point. */
export function lossChart(points: LossPoint[], weight = 0.12): AlignedData {
  let mean: number | null = null;
  const smooth = points.map((point) => {
    mean = mean === null ? point.loss : mean + weight * (point.loss - mean);
    return mean;
  });
  return [points.map((point) => point.t_ms / 1000), points.map((point) => point.loss), smooth];
}

/** Decision time in microseconds. */
export function latencyChart(points: LatencyPoint[]): AlignedData {
  return [
    points.map((point) => point.t_ms / 1000),
    points.map((point) => point.p50_us),
    points.map((point) => point.p99_us),
  ];
}

/** Adds newer points to those already here; scores and swaps come whole each time. */
export function mergeHistory(known: History, news: History, pointsMax = 6000): History {
  return {
    scores: news.scores,
    swaps: news.swaps,
    loss: newer(known.loss, news.loss, pointsMax),
    latency: newer(known.latency, news.latency, pointsMax),
  };
}

function newer<T extends { t_ms: number }>(known: T[], news: T[], max: number): T[] {
  const last = known[known.length - 1]?.t_ms ?? Number.NEGATIVE_INFINITY;
  const fresh = news.filter((point) => point.t_ms > last);
  if (fresh.length === 0) return known;
  const all = [...known, ...fresh];
  if (all.length <= max) return all;
  // Thin the older half evenly, so that the whole course stays.
  const half = all.length >> 1;
  return all.filter((_, index) => index >= half || index % 2 === 0);
}

/** The time up to which both loss and latency are here; only what comes after is asked for. */
export function sinceMs(history: History): number | null {
  const loss = history.loss[history.loss.length - 1]?.t_ms;
  const latency = history.latency[history.latency.length - 1]?.t_ms;
  return loss === undefined || latency === undefined ? null : Math.min(loss, latency);
}

/** A path of an SVG sparkline in a box, newest on the right; empty with fewer than two values. */
export function sparkline(values: number[], width: number, height: number): string {
  if (values.length < 2) return '';
  const top = Math.max(...values);
  const scale = top > 0 ? (height - 2) / top : 0;
  const step = width / (values.length - 1);
  return values
    .map((value, index) => `${index === 0 ? 'M' : 'L'}${(index * step).toFixed(1)} ${(height - 1 - value * scale).toFixed(1)}`)
    .join('');
}

/** Words for screen readers. */
export function describeScores(scores: { anchor: string; score: number | null }[], swaps: SwapPoint[]): string {
  const parts = scores.map(({ anchor, score }) =>
    score === null ? `${anchor} not judged yet` : `${anchor} ${Math.round(score * 100)} percent`,
  );
  const moves = swaps.length === 1 ? 'one swap' : `${swaps.length} swaps`;
  return `Share of games won by the champion: ${parts.join(', ') || 'nothing judged yet'}; ${moves} so far.`;
}
