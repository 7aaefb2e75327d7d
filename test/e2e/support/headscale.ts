import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { programs } from './build.ts';
import { type Child, run } from './child.ts';
import {
  configuration,
  DEBUG_PORT,
  derpMap,
  HEADSCALE_PORT,
  type HeadscaleVersion,
  STUN_PORT,
} from './headscale-configuration.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import { type Answer, ask, ended } from './reach.ts';
import { until } from './wait.ts';

/** The user all nodes belong to. */
export const USER = 'someone';

/** Numbers of descriptors end below the limit, and the least are its standard input and output. */
const DESCRIPTORS = { least: 3, usual: 1024 };

export interface HeadscaleOptions {
  /** Default: 0.29.2. */
  readonly version?: HeadscaleVersion;
  /**
   * How long Headscale gathers changes of nodes before it applies them; its own default, 500 ms, comes twice in each
   * start of a client, and hides all that is shorter. Only 0.29 has it.
   */
  readonly gatherWritesMs?: number;
  /** The server URL, with https, at which clients find Headscale's embedded relay; default: there is none. */
  readonly relayAt?: string;
  /** After how long offline an ephemeral node is deleted: more than 65 s. Default: Headscale's, 2 minutes. */
  readonly ephemeralAfterMs?: number;
}

/** A node as Headscale's API lists it. */
export interface ListedNode {
  /** A decimal number. */
  readonly id: string;
  readonly machineKey: string;
  readonly nodeKey: string;
  /** The name that the node gave. */
  readonly name: string;
  readonly givenName: string;
  readonly user: { readonly name: string };
  readonly online: boolean;
  /** The routes that lead to this node: of a pair of routers, only one has them. From 0.26 on. */
  readonly subnetRoutes: readonly string[];
}

/** A real Headscale on the lab's server. */
export class Headscale {
  readonly #lab: Lab;
  readonly #folder: string;
  readonly #version: HeadscaleVersion;
  /** For clients that are to come without a watchdog. */
  readonly url: string;
  readonly noiseKeyFile: string;
  #child: Child | undefined;
  #apiKey: string | undefined;
  readonly #authKeys = new Map<string, Promise<string>>();

  private constructor(lab: Lab, version: HeadscaleVersion) {
    this.#lab = lab;
    this.#folder = lab.folder('headscale');
    this.#version = version;
    this.url = `http://${this.#target}`;
    this.noiseKeyFile = join(this.#folder, 'noise_private.key');
  }

  static async start(lab: Lab, options: HeadscaleOptions = {}): Promise<Headscale> {
    const headscale = new Headscale(lab, options.version ?? '0.29.2');
    writeFileSync(headscale.#config, configuration(headscale.#folder, headscale.url, options));
    writeFileSync(join(headscale.#folder, 'derp.yaml'), derpMap(lab.server.address));
    // Its own relay answers STUN itself.
    if (options.relayAt === undefined)
      lab.start('stun-server', onHost(lab.server, programs.stunServer, `${lab.server.address}:${STUN_PORT}`));
    await headscale.#serve();
    await headscale.#command('users', 'create', USER);
    return headscale;
  }

  async #serve(): Promise<void> {
    const command = onHost(this.#lab.server, this.#program, 'serve', '-c', this.#config);
    const child = this.#lab.start(`headscale ${this.#version}`, command);
    this.#child = child;
    await until('headscale', { timeoutMs: 60_000, giveUp: () => ended(child) }, async () => {
      const answer = await this.#lab.reach.get(this.#target, '/health');
      return answer.status === 200 ? true : undefined;
    });
  }

  async addUser(name: string): Promise<void> {
    await this.#command('users', 'create', name);
  }

  /** A reusable one. Nodes that log in with an ephemeral one are deleted some time after they have gone offline. */
  authKey(user = USER, kind: 'lasting' | 'ephemeral' = 'lasting'): Promise<string> {
    const which = `${user} ${kind}`;
    const key = this.#authKeys.get(which) ?? this.#newAuthKey(user, kind === 'ephemeral' ? ['--ephemeral'] : []);
    this.#authKeys.set(which, key);
    return key;
  }

  async #newAuthKey(user: string, more: readonly string[]): Promise<string> {
    const made = [
      'preauthkeys',
      'create',
      '--user',
      await this.#userArgument(user),
      '--reusable',
      '--expiration',
      '1h',
      ...more,
    ];
    const { key } = await this.#command<{ readonly key: string }>(...made);
    return key;
  }

  /** The path of a file with a key for its API. */
  async apiKeyFile(): Promise<string> {
    const path = join(this.#folder, 'api.key');
    writeFileSync(path, `${await this.apiKey()}\n`, { mode: 0o600 });
    return path;
  }

  /** Makes an OAuth client. Only from 0.30 on. @returns its id and its secret. */
  async oauthClient(scope: string): Promise<{ readonly id: string; readonly key: string }> {
    return this.#command('oauth-clients', 'create', '--scope', scope);
  }

  async deleteOauthClient(id: string): Promise<void> {
    await this.#command('oauth-clients', 'delete', '--id', id);
  }

  /** Asks its API without a watchdog. */
  ask(method: string, path: string, bearer: string, form?: Record<string, string>): Promise<Answer> {
    const body = form === undefined ? '' : String(new URLSearchParams(form));
    const headers = {
      ...{ host: this.#target, authorization: `Bearer ${bearer}`, 'content-length': String(body.length) },
      'content-type': 'application/x-www-form-urlencoded',
    };
    return ask({ method, path, headers, body, createConnection: () => this.#lab.reach.connect(this.#target) });
  }

  /** A key for its API. */
  async apiKey(): Promise<string> {
    this.#apiKey ??= await this.#command<string>('apikeys', 'create', '--expiration', '1h');
    return this.#apiKey;
  }

  /** What `GET /api/v1/node` answers. */
  async nodes(): Promise<readonly ListedNode[]> {
    const authorization = `Bearer ${await this.apiKey()}`;
    const { status, body } = await this.#lab.reach.get(this.#target, '/api/v1/node', { authorization });
    if (status !== 200) throw new Error(`/api/v1/node: ${status} ${body}`);
    return (JSON.parse(body) as { readonly nodes: readonly ListedNode[] }).nodes;
  }

  /** The node that gave this name when it logged in. */
  async node(name: string): Promise<ListedNode> {
    const found = (await this.nodes()).find((node) => node.name === name);
    if (found === undefined) throw new Error(`Headscale has no node ${name}`);
    return found;
  }

  /** Gives a node another name, of which Headscale tells the node itself: a way to make it speak at a moment. */
  async rename(node: ListedNode, givenName: string): Promise<void> {
    await this.#command('nodes', 'rename', '--identifier', node.id, givenName);
  }

  async delete(node: ListedNode): Promise<void> {
    await this.#command('nodes', 'delete', '--identifier', node.id, '--force');
  }

  async expire(node: ListedNode): Promise<void> {
    await this.#command('nodes', 'expire', '--identifier', node.id);
  }

  async approveRoutes(node: ListedNode, routes: string): Promise<void> {
    await this.#command('nodes', 'approve-routes', '--identifier', node.id, '--routes', routes);
  }

  /** Admits a node whose login waits for its owner, as the owner would. Only for 0.29. */
  async admit(authUrl: string): Promise<void> {
    const authId = authUrl.slice(authUrl.lastIndexOf('/') + 1);
    await this.#command('auth', 'register', '--user', USER, '--auth-id', authId);
  }

  /** How many map streams Headscale itself counts for each node, by the name the node gave. Only 0.29 tells. */
  async connections(): Promise<ReadonlyMap<string, number>> {
    const target = `127.0.0.1:${DEBUG_PORT}`;
    const [batcher, store] = await Promise.all([
      this.#lab.reach.get(target, '/debug/batcher', { accept: 'application/json' }),
      this.#lab.reach.get(target, '/debug/nodestore', { accept: 'application/json' }),
    ]);
    const { connected_nodes: nodes } = JSON.parse(batcher.body) as Batcher;
    const known = JSON.parse(store.body) as Readonly<Record<string, { readonly Hostname: string }>>;
    return new Map(Object.entries(nodes).map(([id, node]) => [known[id]?.Hostname ?? id, node.active_connections]));
  }

  /** How many map responses it has sent so far, as 0.23.0 counts them: whoever begins a map session gets one. */
  async mapResponsesSent(): Promise<number> {
    const { body } = await this.#lab.reach.get(`127.0.0.1:${DEBUG_PORT}`, '/metrics');
    const samples = body.matchAll(/^headscale_mapresponse_sent_total\{.*\} (\S+)$/gm);
    return [...samples].reduce((total, [, value]) => total + Number(value), 0);
  }

  /** What it has open stays; from now on it may open nothing more, or as much as ever. */
  async mayOpen(more: 'nothing' | 'all'): Promise<void> {
    const limit = more === 'nothing' ? DESCRIPTORS.least : DESCRIPTORS.usual;
    await run('prlimit', '--pid', String(this.#child?.pid), `--nofile=${limit}:`);
  }

  async stop(): Promise<void> {
    await this.#child?.end();
  }

  /** Ends it, if it runs, and starts it again. */
  async restart(): Promise<void> {
    await this.stop();
    await this.#serve();
  }

  /** 0.23.0 wants a user's name, 0.29 its number. */
  async #userArgument(user: string): Promise<string> {
    if (this.#version === '0.23.0') return user;
    const users = await this.#command<readonly { readonly id: number | string }[]>('users', 'list', '--name', user);
    return String(users[0]?.id);
  }

  get #program(): string {
    return programs.headscale[this.#version];
  }

  get #target(): string {
    return `${this.#lab.server.address}:${HEADSCALE_PORT}`;
  }

  get #config(): string {
    return join(this.#folder, 'config.json');
  }

  async #command<T>(...args: readonly string[]): Promise<T> {
    return JSON.parse(await run(this.#program, '-c', this.#config, '-o', 'json', ...args)) as T;
  }
}

interface Batcher {
  readonly connected_nodes: Readonly<Record<string, { readonly active_connections: number }>>;
}
