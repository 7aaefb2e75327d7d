import { beforeAll, describe, expect, it } from 'vitest';
import { run } from './support/child.ts';
import { ControlServer } from './support/control-server.ts';
import { Door } from './support/door.ts';
import { printFigures, seconds } from './support/figures.ts';
import { useLab } from './support/lab.ts';
import { onHost } from './support/network.ts';
import { Phone } from './support/phone.ts';
import { ROUNDS, vanishAndReturn } from './support/rounds.ts';
import { delay, until } from './support/wait.ts';
import { Watchdog } from './support/watchdog.ts';

const AUTH_KEY = 'any';
const SILENT_AFTER_MS = 5_000;
/** What two watchdogs may take more than one. */
const SLOWER_BY_MS = 300;
const TOLERANCE_MS = 500;

describe('two watchdogs that share a Redis, in front of a Headscale that refuses second streams', () => {
  const here = useLab();
  let server: ControlServer;
  let left: Watchdog;
  let right: Watchdog;
  let door: Door;
  let redisPort: string;

  async function nft(rules: string): Promise<void> {
    const [program, args] = onHost(here.lab.server, 'nft', rules);
    await run(program, ...args);
  }

  beforeAll(async () => {
    const { lab } = here;
    server = await ControlServer.start(lab, 'refuse');
    redisPort = String(lab.port());
    lab.start('redis', onHost(lab.server, 'redis-server', '--port', redisPort, '--bind', '127.0.0.1', '--save', ''));
    const flags = ['--silent-after', `${SILENT_AFTER_MS / 1000}s`, '--redis', `redis://127.0.0.1:${redisPort}`];
    left = await Watchdog.start(lab, server, ...flags, '--replica-name', 'left');
    right = await Watchdog.start(lab, server, ...flags, '--replica-name', 'right');
    const joined = async () => {
      const all = await Promise.all([left, right].map((each) => each.metrics()));
      return all.every((metrics) => metrics.sum('redis_up') === 1) ? true : undefined;
    };
    await until('both have joined', { timeoutMs: 10_000 }, joined);
    door = await Door.open(lab);
  });

  it('a phone vanishes at one watchdog and comes back at the other as fast as with a single watchdog, and is never refused', async () => {
    const phone = new Phone(here.lab, 'wanderer');
    await door.leadTo(left);
    await phone.logIn(door.url, AUTH_KEY);
    const withinMs = await vanishAndReturn(phone, ROUNDS, async () => {});
    const takeovers = async (): Promise<number> => {
      const all = await Promise.all([left, right].map((each) => each.metrics()));
      return all.reduce((sum, metrics) => sum + metrics.sum('takeovers_total', 'evidence="kernel"'), 0);
    };
    expect(await takeovers()).toBe(ROUNDS);

    let next = right;
    await door.leadTo(next);
    const acrossMs = await vanishAndReturn(phone, ROUNDS, async () => {
      const [own] = await next.streamsFrom(phone.host.address);
      expect(own?.state).toBe('open');
      next = next === right ? left : right;
      await door.leadTo(next);
    });

    printFigures('two watchdogs, vanished and back: start → Running', [
      ['through the same one', seconds(...withinMs)],
      ['through the other one', seconds(...acrossMs)],
      ['refused', String(server.refusals(phone.name))],
    ]);
    expect(await takeovers()).toBe(2 * ROUNDS);
    expect(server.refusals(phone.name)).toBe(0);
    expect(Math.max(...acrossMs)).toBeLessThanOrEqual(Math.max(...withinMs) + SLOWER_BY_MS);
    for (const each of [left, right]) expect(each.errors()).toEqual([]);
    await phone.shutDown();
  });

  it("without Redis no stream is lost and new clients can connect; afterwards the watchdogs know each other's streams again", async () => {
    const bystander = new Phone(here.lab, 'bystander');
    await door.leadTo(left);
    await bystander.logIn(door.url, AUTH_KEY);
    const [before] = await left.streamsFrom(bystander.host.address);
    await nft(
      `add table ip cut; add chain ip cut input { type filter hook input priority 0; }; add rule ip cut input tcp dport ${redisPort} drop; add rule ip cut input tcp sport ${redisPort} drop`,
    );
    const cutAt = performance.now();
    const latecomer = new Phone(here.lab, 'latecomer');
    await door.leadTo(right);
    await latecomer.logIn(door.url, AUTH_KEY);
    const areUp = async (up: number) => {
      const all = await Promise.all([left, right].map((each) => each.metrics()));
      return all.every((metrics) => metrics.sum('redis_up') === up) ? true : undefined;
    };
    await until('both have noticed', { timeoutMs: 10_000 }, () => areUp(0));
    const noticedMs = performance.now() - cutAt;
    const [still] = await left.streamsFrom(bystander.host.address);
    expect(still?.id).toBe(before?.id);
    await nft('delete table ip cut');
    await until('both are back', { timeoutMs: 20_000 }, () => areUp(1));
    await delay(1_500);
    await bystander.vanish();
    await bystander.start();
    const backMs = await bystander.running(20_000);
    printFigures('two watchdogs, cut off from Redis', [
      ['noticed after', seconds(noticedMs)],
      ['afterwards, vanished and back through the other: Running', seconds(backMs)],
      ['refused', String(server.refusals(bystander.name))],
    ]);
    expect(server.refusals(bystander.name)).toBe(0);
    await Promise.all([bystander.shutDown(), latecomer.shutDown()]);
  });

  it('the stream of a frozen client at one watchdog is severed after silent-after for its newcomer at the other', async () => {
    const phone = new Phone(here.lab, 'frozen');
    await door.leadTo(left);
    await phone.logIn(door.url, AUTH_KEY);
    const twin = new Phone(here.lab, 'thawed', phone);
    const before = right.severings().length;
    await delay(200);
    phone.freeze();
    const [old] = (await left.streams()).filter(({ remoteAddress }) =>
      remoteAddress.startsWith(`${phone.host.address}:`),
    );
    expect(old?.state).toBe('open');
    await door.leadTo(right);
    await twin.start();
    const severed = () => left.severings().find(({ stream }) => stream === old?.id);
    const severing = await until('severing', { timeoutMs: 3 * SILENT_AFTER_MS, everyMs: 20 }, severed);
    const backMs = await twin.running(30_000);
    printFigures('two watchdogs, a frozen client, --silent-after 5s', [
      ['last heard → severed', seconds(severing.silentMs)],
      ['its newcomer at the other: Running after', seconds(backMs)],
    ]);
    expect(severing.silentMs).toBeGreaterThanOrEqual(SILENT_AFTER_MS);
    expect(severing.silentMs).toBeLessThanOrEqual(SILENT_AFTER_MS + TOLERANCE_MS);
    expect(right.severings()).toHaveLength(before);
    await twin.shutDown();
  });
});
