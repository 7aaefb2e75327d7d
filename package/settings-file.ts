import { fileKey } from '../src/config/file.ts';
import { SETTING_NAMES, SETTINGS, type SettingHelp, type SettingName } from '../src/config/settings.ts';

const WIDTH = 100;

/**
 * A file of settings that explains itself: each setting with its default, as a comment.
 *
 * @param active the settings that are no comment, by their keys.
 */
export function settingsFile(active: Readonly<Record<string, string>>): string {
  const lines = [
    '# yaml-language-server: $schema=/usr/share/doc/headscale-watchdog/watchdog.schema.json',
    ...comment(
      'Settings of headscale-watchdog. A line that begins with # and a setting shows its default; remove the # to change it. ' +
        'The settings are those of headscale-watchdog serve --help.',
    ),
    '#',
    '# Check it:   headscale-watchdog check --config /etc/headscale-watchdog/watchdog.yaml --noise-key /var/lib/headscale/noise_private.key',
    '# Start it:   systemctl enable --now headscale-watchdog.socket headscale-watchdog.service',
    '# Apply it:   systemctl reload headscale-watchdog',
    '#',
    ...comment(
      'The unit passes noise-key itself, so leave it out here. If you change the port of listen, change it in the socket unit too ' +
        '(systemctl edit headscale-watchdog.socket).',
    ),
  ];
  let group = '';
  for (const name of SETTING_NAMES) {
    const setting: SettingHelp = SETTINGS[name];
    if (setting.group !== group) lines.push('', `# ---- ${setting.group} ----`);
    group = setting.group;
    lines.push('', ...comment(`${setting.help[0]?.toUpperCase()}${setting.help.slice(1)}.`), ...linesOf(name, active));
  }
  return `${[...lines, '', ...END].join('\n')}\n`;
}

function linesOf(name: SettingName, active: Readonly<Record<string, string>>): readonly string[] {
  const { byDefault, takes = '' }: SettingHelp = SETTINGS[name];
  const key = fileKey(name);
  const shown = byDefault === undefined ? takes.replace(/[<>]/g, '').toUpperCase() : String(byDefault);
  const [first = '', nested] = key.split('.');
  const value = nested === undefined ? shown : `{ ${nested}: ${shown} }`;
  const given = active[key];
  return [`#${first}: ${value}`, ...(given === undefined ? [] : [`${key}: ${given}`])];
}

/** What the file may have beside the settings of the command line. */
const END = [
  '# ---- Rules for single nodes ----',
  '',
  '# The first rule that matches a node changes these settings for it. See docs/configuration.md.',
  '#nodes:',
  '#  - name: "router-*"',
  '#    probe-idle: 10s',
  '',
  '# ---- Who is notified ----',
  '',
  '# Of nodes that go offline and come back, and the like. See docs/notifications.md.',
  '#notify:',
  '#  - url: https://ntfy.sh/TOPIC',
  '#    format: ntfy',
];

function comment(text: string): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length + 1 > WIDTH) lines.push(`# ${word}`);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
