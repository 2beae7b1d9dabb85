// Draws one moment of a tank game. Coordinates are the pixels of the map; the caller scales the context.

import type { Bullet, MapMessage, Tank, TankState } from '../types';
import { blast, bullet as bulletColour, flag, ground, side, spark } from './palette';

export interface Burst {
  x: number;
  y: number;
  kind: 'flash' | 'spark' | 'blast';
  bornMs: number;
}

const BURST_MS: Record<Burst['kind'], number> = { flash: 120, spark: 260, blast: 620 };
const BURSTS_MAX = 64;

/** Effects of a state that are worth a burst. */
export function burstsOf(state: TankState, nowMs: number): Burst[] {
  const kinds: Record<string, Burst['kind']> = {
    fire: 'flash',
    hit: 'spark',
    hit_tank: 'spark',
    destroy_tank: 'blast',
    destroy_hq: 'blast',
  };
  return (state.events ?? []).flatMap((effect) => {
    const kind = effect.type === 'fx' ? kinds[effect.name ?? ''] : undefined;
    return kind && effect.x !== undefined && effect.y !== undefined ? [{ x: effect.x, y: effect.y, kind, bornMs: nowMs }] : [];
  });
}

/** Drops bursts that are over, and the oldest when there are too many. */
export function livingBursts(bursts: Burst[], nowMs: number): Burst[] {
  return bursts.filter((burst) => nowMs - burst.bornMs < BURST_MS[burst.kind]).slice(-BURSTS_MAX);
}

/** Draws what lies under the tanks into `context`; grass goes into `cover`, which is laid over them. */
export function drawGround(context: CanvasRenderingContext2D, cover: CanvasRenderingContext2D, map: MapMessage): void {
  const size = map.tile_size;
  const [width, height] = [map.columns * size, map.rows * size];
  context.fillStyle = ground.soil;
  context.fillRect(0, 0, width, height);
  cover.clearRect(0, 0, width, height);
  for (let row = 0; row < map.rows; row++) {
    for (let column = 0; column < map.columns; column++) {
      const tile = map.tiles.charCodeAt(row * map.columns + column) - 48;
      drawTile(tile === 3 ? cover : context, tile, column * size, row * size, size, (row * 7 + column * 13) % 5);
    }
  }
}

function drawTile(context: CanvasRenderingContext2D, tile: number, x: number, y: number, size: number, grain: number): void {
  const rect = (colour: string, dx: number, dy: number, w: number, h: number) => {
    context.fillStyle = colour;
    context.fillRect(x + dx * size, y + dy * size, w * size, h * size);
  };
  switch (tile) {
    case 1:
      rect(ground.water, 0, 0, 1, 1);
      rect(ground.waterWave, 0.1 + grain * 0.1, 0.3, 0.35, 0.08);
      rect(ground.waterWave, 0.5 - grain * 0.08, 0.7, 0.35, 0.08);
      break;
    case 2:
      rect(ground.mortar, 0, 0, 1, 1);
      rect(ground.brick, 0, 0.02, 0.46, 0.44);
      rect(ground.brickLight, 0.53, 0.02, 0.45, 0.44);
      rect(ground.brickLight, 0, 0.53, 0.2, 0.44);
      rect(ground.brick, 0.27, 0.53, 0.46, 0.44);
      rect(ground.brick, 0.8, 0.53, 0.2, 0.44);
      break;
    case 3:
      rect(ground.grass, 0, 0, 1, 1);
      for (let blade = 0; blade < 3; blade++) rect(ground.grassBlade, 0.12 + blade * 0.3, 0.15 + ((blade + grain) % 3) * 0.22, 0.09, 0.3);
      break;
    case 4:
      rect(ground.steel, 0, 0, 1, 1);
      rect(ground.steelLight, 0, 0, 1, 0.1);
      rect(ground.steelLight, 0, 0, 0.1, 1);
      rect(ground.steelDark, 0, 0.9, 1, 0.1);
      rect(ground.steelDark, 0.9, 0, 0.1, 1);
      rect(ground.steelDark, 0.35, 0.35, 0.3, 0.3);
      break;
    case 5:
      rect(ground.aiSpawn, 0, 0, 1, 1);
      break;
    case 6:
      rect(ground.playerSpawn, 0, 0, 1, 1);
      break;
    case 7:
      rect('#3b2f12', 0, 0, 1, 1);
      rect(flag, 0.22, 0.12, 0.09, 0.78);
      rect(flag, 0.31, 0.14, 0.5, 0.36);
      rect('#3b2f12', 0.42, 0.24, 0.14, 0.14);
      break;
    default:
      if (grain === 0) rect(ground.soilGrain, 0.2, 0.3, 0.3, 0.14);
      if (grain === 3) rect(ground.soilGrain, 0.6, 0.7, 0.2, 0.1);
  }
}

/** Draws what moves; `cover` is laid between the tanks and the effects. */
export function drawActors(context: CanvasRenderingContext2D, state: TankState, cover: CanvasImageSource, bursts: Burst[], nowMs: number): void {
  for (const bullet of state.bullets ?? []) drawBullet(context, bullet);
  for (const tank of state.players ?? []) drawTank(context, tank);
  context.drawImage(cover, 0, 0);
  for (const tank of state.players ?? []) drawHealth(context, tank);
  for (const burst of bursts) drawBurst(context, burst, nowMs);
}

function drawTank(context: CanvasRenderingContext2D, tank: Tank): void {
  const colours = tank.role === 'ai' ? side.ai : side.player;
  const heavy = tank.label.startsWith('heavy');
  const quick = tank.label.startsWith('speedy');
  context.save();
  context.translate(tank.x, tank.y);
  // The drawing faces up; dirX and dirY turn it.
  context.rotate(Math.atan2(tank.dirX, -tank.dirY));
  context.fillStyle = colours.dark;
  const track = heavy ? 7 : quick ? 4 : 5.5;
  context.fillRect(-13, -13, track, 26);
  context.fillRect(13 - track, -13, track, 26);
  context.fillStyle = 'rgba(0, 0, 0, 0.35)';
  for (let link = -11; link < 12; link += 5) {
    context.fillRect(-13, link, track, 1.6);
    context.fillRect(13 - track, link, track, 1.6);
  }
  context.fillStyle = colours.body;
  context.beginPath();
  context.roundRect(-9, heavy ? -12 : -10, 18, heavy ? 24 : 21, 3);
  context.fill();
  context.fillStyle = colours.dark;
  context.beginPath();
  context.arc(0, 1, heavy ? 6.2 : 5.2, 0, Math.PI * 2);
  context.fill();
  context.fillStyle = colours.light;
  if (tank.label.startsWith('rapid')) {
    context.fillRect(-3.4, -16, 2.4, 15);
    context.fillRect(1, -16, 2.4, 15);
  } else {
    context.fillRect(heavy ? -2.2 : -1.6, -16, heavy ? 4.4 : 3.2, 16);
  }
  context.restore();
}

function drawHealth(context: CanvasRenderingContext2D, tank: Tank): void {
  const share = tank.maxHealth > 0 ? Math.max(0, Math.min(1, tank.health / tank.maxHealth)) : 0;
  context.fillStyle = 'rgba(0, 0, 0, 0.6)';
  context.fillRect(tank.x - 14, tank.y - 22, 28, 4);
  context.fillStyle = share > 0.5 ? '#4ade80' : share > 0.25 ? '#facc15' : '#f87171';
  context.fillRect(tank.x - 13, tank.y - 21, 26 * share, 2);
}

function drawBullet(context: CanvasRenderingContext2D, bullet: Bullet): void {
  context.fillStyle = bulletColour;
  context.shadowColor = spark;
  context.shadowBlur = 6;
  context.beginPath();
  context.arc(bullet.x, bullet.y, Math.max(1.8, bullet.radius * 1.2), 0, Math.PI * 2);
  context.fill();
  context.shadowBlur = 0;
}

function drawBurst(context: CanvasRenderingContext2D, burst: Burst, nowMs: number): void {
  const age = Math.min(1, (nowMs - burst.bornMs) / BURST_MS[burst.kind]);
  context.globalAlpha = 1 - age;
  if (burst.kind === 'blast') {
    context.fillStyle = blast;
    context.beginPath();
    context.arc(burst.x, burst.y, 6 + 16 * age, 0, Math.PI * 2);
    context.fill();
    context.strokeStyle = spark;
    context.lineWidth = 2.5;
    context.beginPath();
    context.arc(burst.x, burst.y, 8 + 26 * age, 0, Math.PI * 2);
    context.stroke();
  } else {
    context.fillStyle = spark;
    const reach = burst.kind === 'flash' ? 4 : 4 + 8 * age;
    for (let ray = 0; ray < 6; ray++) {
      const turn = (ray / 6) * Math.PI * 2;
      context.beginPath();
      context.arc(burst.x + Math.cos(turn) * reach, burst.y + Math.sin(turn) * reach, 1.6, 0, Math.PI * 2);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}
