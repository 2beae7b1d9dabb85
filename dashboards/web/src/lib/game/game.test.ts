import { describe, expect, it } from 'vitest';
import type { GameInfo, TankState } from '../types';
import { burstsOf, livingBursts } from './draw';
import { chooseGame, reasonInWords } from './watch.svelte';
import { retryDelay } from '../loop.svelte';

const game = (id: string, opponent: string, ended: string | null = null, source = 'live'): GameInfo => ({
  id, opponent, ended, source, system: 'tank', map: 'm', model: null, tick: 0, started_at_ms: 0,
});

describe('choosing a game', () => {
  it('stays with the chosen one while it lasts', () => {
    expect(chooseGame([game('a', 'hunter'), game('b', 'camper')], 'b', null)).toBe('b');
  });
  it('goes on with the same opponent when it ended', () => {
    expect(chooseGame([game('a', 'hunter'), game('b', 'camper', 'time_limit'), game('c', 'camper')], 'b', 'camper')).toBe('c');
  });
  it('prefers live games to farm games, and has none when none goes on', () => {
    expect(chooseGame([game('f', 'hunter', null, 'farm'), game('l', 'camper')], null, null)).toBe('l');
    expect(chooseGame([game('f', 'hunter', null, 'farm')], null, null)).toBe('f');
    expect(chooseGame([game('a', 'hunter', 'time_limit')], 'a', null)).toBeNull();
  });
});

describe('effects', () => {
  const state = {
    tick: 1, players: [], bullets: [],
    events: [{ type: 'fx', name: 'hit', x: 1, y: 2 }, { type: 'fx', name: 'game_start' }, { type: 'ai_spawn', x: 1, y: 1 }],
  } satisfies TankState;
  it('makes bursts only of effects with a place', () => {
    expect(burstsOf(state, 10)).toEqual([{ x: 1, y: 2, kind: 'spark', bornMs: 10 }]);
  });
  it('forgets bursts that are over and keeps few', () => {
    const many = Array.from({ length: 200 }, () => ({ x: 0, y: 0, kind: 'spark' as const, bornMs: 0 }));
    expect(livingBursts(many, 100)).toHaveLength(64);
    expect(livingBursts(many, 1000)).toHaveLength(0);
  });
});

it('waits longer after each failure, and at most 6.5 seconds', () => {
  expect([0, 1, 2, 9].map((failures) => retryDelay(failures, 0.5))).toEqual([400, 800, 1600, 5000]);
  expect(retryDelay(99, 1)).toBeLessThanOrEqual(6500);
});

it('says why a game ended', () => {
  expect(reasonInWords('time_limit')).toBe('time ran out');
  expect(reasonInWords('<b>')).toBe('<b>');
});
