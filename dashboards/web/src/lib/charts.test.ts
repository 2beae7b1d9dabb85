import { describe, expect, it } from 'vitest';
import { anchorsOf, currentScores, describeScores, latencyChart, lossChart, mergeHistory, scoreChart, sinceMs, sparkline } from './charts';
import type { History, ScorePoint, SwapPoint } from './types';

const score = (t_ms: number, version: number, opponent: string, value: number): ScorePoint => ({
  t_ms, version, opponent, games: 20, score: value, source: 'judge',
});
const swap = (t_ms: number, from: number | null, to: number): SwapPoint => ({ t_ms, from, to, reason: 'promoted', took_ms: 4 });
const empty: History = { scores: [], swaps: [], loss: [], latency: [] };

describe('the score chart', () => {
  it('names the anchors in a fixed order and leaves versions out', () => {
    const scores = ['hunter', 'champion@3', 'aardvark', 'random'].map((name) => score(0, 1, name, 0.5));
    expect(anchorsOf(scores)).toEqual(['random', 'hunter', 'aardvark']);
  });

  it('steps when the champion changes, not when a version is judged', () => {
    const history = {
      scores: [score(1000, 1, 'hunter', 0.2), score(5000, 2, 'hunter', 0.6), score(7000, 3, 'hunter', 0.4)],
      swaps: [swap(1000, null, 1), swap(6000, 1, 2)],
    };
    const chart = scoreChart(history, 9000);
    expect(chart.data[0]).toEqual([1, 5, 6, 7, 9]);
    expect(chart.data[1]).toEqual([0.2, 0.2, 0.6, 0.6, 0.6]);
    expect(chart.data[2]).toEqual([0.2, 0.6, null, 0.4, null]);
    expect(currentScores(chart)).toEqual([{ anchor: 'hunter', score: 0.6 }]);
  });

  it('falls back with a rollback', () => {
    const history = {
      scores: [score(1, 1, 'hunter', 0.5), score(2, 2, 'hunter', 0.7)],
      swaps: [swap(1, null, 1), swap(3, 1, 2), swap(4, 2, 1)],
    };
    expect(scoreChart(history, 5).data[1]).toEqual([0.5, 0.5, 0.7, 0.5, 0.5]);
  });

  it('is empty while nothing is judged, and leaves live scores out', () => {
    expect(scoreChart(empty, 5).data).toEqual([[]]);
    expect(scoreChart({ scores: [{ ...score(1, 1, 'hunter', 0.5), source: 'live' }], swaps: [] }, 5).data[0]).toEqual([]);
  });

  it('takes the newest score of a version that was judged twice', () => {
    const history = { scores: [score(1, 1, 'hunter', 0.5), score(8, 1, 'hunter', 0.55)], swaps: [swap(0, null, 1)] };
    expect(scoreChart(history, 9).data[1]).toEqual([0.55, 0.55, 0.55]);
  });
});

describe('loss, latency and sparklines', () => {
  it('smooths the loss without moving its first point', () => {
    const [, raw, smooth] = lossChart([{ t_ms: 0, step: 1, loss: 4 }, { t_ms: 1, step: 2, loss: 2 }], 0.5);
    expect([raw, smooth]).toEqual([[4, 2], [4, 3]]);
  });
  it('keeps latency in microseconds', () => {
    expect(latencyChart([{ t_ms: 2000, p50_us: 10, p99_us: 30 }])).toEqual([[2], [10], [30]]);
  });
  it('draws nothing for one value and a flat line for zeros', () => {
    expect(sparkline([1], 10, 10)).toBe('');
    expect(sparkline([0, 0], 10, 10)).toBe('M0.0 9.0L10.0 9.0');
  });
});

describe('merging history', () => {
  const loss = (t_ms: number) => ({ t_ms, step: t_ms, loss: 1 });
  it('takes only newer points and whole lists of scores', () => {
    const known = { ...empty, loss: [loss(1), loss(2)] };
    const merged = mergeHistory(known, { ...empty, loss: [loss(2), loss(3)], swaps: [swap(1, null, 1)] });
    expect(merged.loss.map((point) => point.t_ms)).toEqual([1, 2, 3]);
    expect(merged.swaps).toHaveLength(1);
  });
  it('stays bounded and keeps both ends', () => {
    let history = empty;
    for (let t = 0; t < 500; t++) history = mergeHistory(history, { ...empty, loss: [loss(t)] }, 50);
    expect(history.loss.length).toBeLessThanOrEqual(50);
    expect([history.loss[0]?.t_ms, history.loss.at(-1)?.t_ms]).toEqual([0, 499]);
  });
  it('asks for everything until both lists have begun', () => {
    expect(sinceMs(empty)).toBeNull();
    expect(sinceMs({ ...empty, loss: [loss(5)] })).toBeNull();
    expect(sinceMs({ ...empty, loss: [loss(5)], latency: [{ t_ms: 3, p50_us: 1, p99_us: 1 }] })).toBe(3);
  });
});

it('says the chart in words', () => {
  expect(describeScores([{ anchor: 'hunter', score: 0.62 }, { anchor: 'camper', score: null }], [swap(1, null, 1)])).toBe(
    'Share of games won by the champion: hunter 62 percent, camper not judged yet; one swap so far.',
  );
});
