import { describe, expect, it } from 'vitest';
import { ago, compact, duration, figure, lag, mapName, micros, millis, number, percent, words } from './format';

const plain = (text: string) => text.replaceAll('\u202f', ' ');

describe('figures', () => {
  it('groups thousands and keeps few digits', () => {
    expect([12400, 0.123, 12.34, 999.6, Number.NaN].map(number)).toEqual(['12,400', '0.12', '12.3', '1,000', '–']);
  });
  it('shortens large numbers and leaves small ones alone', () => {
    expect([0, 9.5, 940, 9_999, 12_400, 312_000, 4_200_000, 3e9].map((n) => plain(compact(n)))).toEqual([
      '0', '9.5', '940', '9,999', '12.4 k', '312 k', '4.2 M', '3.0 G',
    ]);
  });
  it('chooses the unit of a time by its size', () => {
    expect([3.21, 420, 1300, 2_100_000].map((us) => plain(micros(us)))).toEqual(['3.2 µs', '420 µs', '1.3 ms', '2.1 s']);
    expect([0.42, 320, 1840, 125_000].map((ms) => plain(millis(ms)))).toEqual(['0.4 ms', '320 ms', '1.8 s', '2 min 5 s']);
    expect([48, 252, 7_380].map((s) => plain(duration(s)))).toEqual(['48 s', '4 min 12 s', '2 h 03 min']);
    expect(micros(null)).toBe('–');
  });
  it('says lags in their own unit', () => {
    expect([lag(340, 'ms'), lag(2, 's'), lag(12_400, 'events'), lag(3, '')].map(plain)).toEqual([
      '340 ms', '2.0 s', '12.4 k events', '3',
    ]);
  });
  it('says shares, ages, keys, details and maps in words', () => {
    expect(plain(percent(0.625))).toBe('63 %');
    expect(percent(null)).toBe('–');
    expect(ago(1_000, 2_000)).toBe('just now');
    expect(plain(ago(0, 63_000))).toBe('1 min 3 s ago');
    expect(words('samples_per_insert')).toBe('samples per insert');
    expect([figure(true), figure('cpu'), figure(null), figure([1])]).toEqual(['yes', 'cpu', '–', '[1]']);
    expect(mapName('maps/Stage01.json')).toBe('Stage01');
  });
});
