// Follows the frames of one game at a time.

import { socketUrl } from '../loop.svelte';
import type { GameInfo, GameMessage, MapMessage, TankState } from '../types';

export class GameWatch {
  map = $state.raw<MapMessage | null>(null);
  ended = $state<string | null>(null);
  /** Newest state; not reactive, the canvas asks for it when it draws. */
  state: TankState | null = null;
  tick = $state(0);
  destroyed = $state(0);
  tanks = $state(0);
  gone = $state(false);
  #socket: WebSocket | null = null;
  #onstate: (state: TankState) => void;

  constructor(onstate: (state: TankState) => void) {
    this.#onstate = onstate;
  }

  follow(id: string): () => void {
    this.state = null;
    this.map = null;
    this.ended = null;
    this.gone = false;
    const socket = new WebSocket(socketUrl(`/ws/games/${encodeURIComponent(id)}`));
    this.#socket = socket;
    socket.onmessage = (event: MessageEvent<string>) => {
      if (this.#socket === socket) this.#take(JSON.parse(event.data) as GameMessage);
    };
    socket.onclose = () => {
      if (this.#socket === socket) this.gone = true;
    };
    return () => {
      if (this.#socket === socket) this.#socket = null;
      socket.close();
    };
  }

  #take(message: GameMessage): void {
    if (message.type === 'map') this.map = message;
    else if (message.type === 'end') this.ended = message.reason;
    else {
      this.state = message.state;
      this.tick = message.tick;
      this.destroyed = message.state.stats?.enemiesDestroyed ?? 0;
      this.tanks = message.state.players?.length ?? 0;
      this.#onstate(message.state);
    }
  }
}

/**
 * The game to show: the chosen one while it lasts, else the newest live one that still goes on, of the same opponent
 * if there is one.
 */
export function chooseGame(games: GameInfo[], chosen: string | null, opponent: string | null): string | null {
  const going = games.filter((game) => game.ended === null);
  if (chosen !== null && going.some((game) => game.id === chosen)) return chosen;
  const live = going.filter((game) => game.source !== 'farm');
  const pool = live.length > 0 ? live : going;
  return (pool.find((game) => game.opponent === opponent) ?? pool[0])?.id ?? null;
}

export function reasonInWords(reason: string): string {
  const known: Record<string, string> = {
    hq_destroyed: 'the AI side took the headquarters',
    player_destroyed: 'the AI side destroyed the player',
    time_limit: 'time ran out',
  };
  return known[reason] ?? reason;
}
