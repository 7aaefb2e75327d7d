import type { Command } from 'commander';
import { isRepeatable } from './help.ts';

/** What the shell completes for a command. */
interface CommandWords {
  readonly name: string;
  readonly description: string;
  readonly options: readonly OptionWords[];
  /** The words that its argument may be; empty if it may be anything. */
  readonly argumentChoices: readonly string[];
}

interface OptionWords {
  /** With its dashes: `--json`. */
  readonly flag: string;
  readonly description: string;
  readonly value: 'none' | 'file' | 'other';
  readonly choices: readonly string[];
  readonly isRepeatable: boolean;
}

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

const PROGRAM = 'headscale-watchdog';

/** @returns a script that completes commands, flags, files and fixed words. */
export function completionScript(shell: Shell, program: Command): string {
  const commands = program.commands.map(wordsOf);
  switch (shell) {
    case 'bash':
      return bash(commands);
    case 'zsh':
      return zsh(commands);
    case 'fish':
      return fish(commands);
    default:
      return shell satisfies never;
  }
}

function bash(commands: readonly CommandWords[]): string {
  const cases = commands.map(({ name, options, argumentChoices }) => {
    const words = [...options.map(({ flag }) => flag), ...argumentChoices].join(' ');
    return `    ${name}) words='${words}' ;;`;
  });
  const files = flagsWhere(commands, ({ value }) => value === 'file').join('|');
  const others = flagsWhere(commands, ({ value, choices }) => value === 'other' && choices.length === 0).join('|');
  return `# bash completion for ${PROGRAM}: source <(${PROGRAM} completion bash)
_headscale_watchdog() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} words=''
  COMPREPLY=()
  case "\${COMP_WORDS[1]} $before" in
${valueCases(commands)}  esac
  case $before in
    ${files}) mapfile -t COMPREPLY < <(compgen -f -- "$word"); compopt -o filenames 2>/dev/null; return ;;
    ${others}) return ;;
  esac
  case \${COMP_WORDS[1]} in
${cases.join('\n')}
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then words='${commands.map(({ name }) => name).join(' ')} --help --version'; fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _headscale_watchdog ${PROGRAM}
`;
}

/** The values of a flag may differ from command to command. */
function valueCases(commands: readonly CommandWords[]): string {
  const cases = commands.flatMap(({ name, options }) =>
    options
      .filter(({ choices }) => choices.length > 0)
      .map(({ flag, choices }) => {
        const words = choices.join(' ');
        return `    '${name} ${flag}') mapfile -t COMPREPLY < <(compgen -W '${words}' -- "$word"); return ;;\n`;
      }),
  );
  return cases.join('');
}

function flagsWhere(commands: readonly CommandWords[], matches: (option: OptionWords) => boolean): readonly string[] {
  return [...new Set(commands.flatMap(({ options }) => options.filter(matches).map(({ flag }) => flag)))];
}

function zsh(commands: readonly CommandWords[]): string {
  const list = commands.map(({ name, description }) => `    ${quote(`${name}:${description.replace(/:/g, '\\:')}`)}`);
  const cases = commands.map(({ name, options, argumentChoices }) => {
    const specs = options.map(({ flag, description, value, choices, isRepeatable }) => {
      const text = `[${description.replace(/[[\]:]/g, ' ')}]`;
      const action =
        value === 'file' ? ':file:_files' : choices.length > 0 ? `:value:(${choices.join(' ')})` : ':value:';
      // Without the star, zsh offers a flag once.
      return quote(`${isRepeatable ? '*' : ''}${flag}${text}${value === 'none' ? '' : action}`);
    });
    if (argumentChoices.length > 0) specs.push(quote(`1:what:(${argumentChoices.join(' ')})`));
    return `    ${name}) _arguments ${specs.join(' ')} ;;`;
  });
  return `#compdef ${PROGRAM}
# zsh completion for ${PROGRAM}: source <(${PROGRAM} completion zsh)
_headscale_watchdog() {
  local -a commands=(
${list.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join('\n')}
  esac
}
compdef _headscale_watchdog ${PROGRAM}
`;
}

function fish(commands: readonly CommandWords[]): string {
  const lines = commands.flatMap(({ name, description, options, argumentChoices }) => {
    const within = `complete -c ${PROGRAM} -n '__fish_seen_subcommand_from ${name}'`;
    const flags = options.map(({ flag, description: text, value, choices }) => {
      const takes =
        value === 'none'
          ? ''
          : value === 'file'
            ? ' -r -F'
            : choices.length > 0
              ? ` -x -a '${choices.join(' ')}'`
              : ' -x';
      return `${within} -l ${flag.slice(2)}${takes} -d ${quote(text)}`;
    });
    const words = argumentChoices.length > 0 ? [`${within} -a '${argumentChoices.join(' ')}'`] : [];
    return [`complete -c ${PROGRAM} -n __fish_use_subcommand -a ${name} -d ${quote(description)}`, ...flags, ...words];
  });
  return `# fish completion for ${PROGRAM}: ${PROGRAM} completion fish | source\ncomplete -c ${PROGRAM} -f\n${lines.join('\n')}\n`;
}

/** Puts text in single quotes for a shell. A quote inside the text becomes `'\''`. */
function quote(text: string): string {
  return `'${text.replace(/'/g, "'\\''")}'`;
}

function wordsOf(command: Command): CommandWords {
  const options = command.options.map((option) => ({
    flag: option.long ?? option.flags,
    description: option.description,
    value: valueKindOf(option.flags),
    choices: option.argChoices ?? [],
    isRepeatable: isRepeatable(option),
  }));
  const argumentChoices = command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []);
  return { name: command.name(), description: command.description(), options, argumentChoices };
}

function valueKindOf(flags: string): 'file' | 'other' | 'none' {
  return flags.includes('<file>') ? 'file' : flags.includes('<') ? 'other' : 'none';
}
