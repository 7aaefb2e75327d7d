/** What `--help` says, of the program and of each command. */
export interface Help {
  readonly version: string;
  readonly date: string;
  readonly program: string;
  readonly commands: ReadonlyMap<string, string>;
}

/** The manual page, section 8, made from what the program says of itself. */
export function manPage({ version, date, program, commands }: Help): string {
  const { text, sections } = partsOf(program);
  const options = (help: string): string =>
    partsOf(help)
      .sections.filter(({ title }) => title !== 'Usage' && title !== 'Commands')
      .map(({ title, items }) => `.PP\n.I ${troff(title)}\n${items.map(item).join('')}`)
      .join('');
  const list = sections.find(({ title }) => title === 'Commands')?.items ?? [];
  return [
    `.TH HEADSCALE\\-WATCHDOG 8 "${date}" "headscale\\-watchdog ${version}" "System administration"`,
    '.SH NAME',
    'headscale\\-watchdog \\- reverse proxy in front of Headscale that ends dead map streams',
    '.SH SYNOPSIS',
    '.B headscale\\-watchdog',
    '.I command',
    '[\\fIoption\\fR ...]',
    '.SH DESCRIPTION',
    troff(text),
    '.SH COMMANDS',
    list.map(item).join('').trimEnd(),
    ...[...commands].map(([name, help]) =>
      `.SH OPTIONS OF ${troff(name.toUpperCase())}\n${troff(partsOf(help).text)}\n${options(help)}`.trimEnd(),
    ),
    '.SH FILES',
    item(['/etc/headscale-watchdog/watchdog.yaml', 'The settings. Each is explained there.']).trimEnd(),
    item(['/usr/share/doc/headscale-watchdog', 'The documentation. Read docs/deploying.md first.']).trimEnd(),
    '.SH EXIT STATUS',
    '0 done, 1 failed, 2 wrong usage or settings, 3 nothing matched.',
    '.SH SEE ALSO',
    '.BR systemctl (1),',
    '.BR journalctl (1)',
    '',
  ].join('\n');
}

type Item = readonly [term: string, text: string];

interface Section {
  readonly title: string;
  readonly items: Item[];
}

/** The parts of a help text: headings, and below each lines of a term and its explanation, which may go on in the next lines. */
function partsOf(help: string): { readonly text: string; readonly sections: readonly Section[] } {
  const sections: Section[] = [];
  const text: string[] = [];
  for (const line of help.split('\n')) {
    const [, title] = /^(\w[\w ]*):(?: .*)?$/.exec(line) ?? [];
    const [, term, explained = ''] = /^ {2}(\S.*?)(?: {2,}(.*))?$/.exec(line) ?? [];
    const section = sections.at(-1);
    if (title !== undefined && title !== 'Exit codes') sections.push({ title, items: [] });
    else if (term !== undefined && section !== undefined) section.items.push([term, explained]);
    else if (/^ {3}/.test(line)) addTo(section, line.trim());
    else if (line !== '' && (section === undefined || section.title === 'Usage')) text.push(line);
  }
  return { text: text.join(' '), sections };
}

function addTo(section: Section | undefined, more: string): void {
  const last = section?.items.pop();
  if (last !== undefined) section?.items.push([last[0], `${last[1]} ${more}`.trim()]);
}

function item([term, text]: Item): string {
  return `.TP\n.B ${troff(term)}\n${troff(text)}\n`;
}

/** A line must not begin with what troff takes for a request. */
function troff(text: string): string {
  return text
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^([.'])/gm, '\\&$1');
}
