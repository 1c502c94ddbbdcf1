// Package guidetest checks that what a guide tells its readers to type exists:
// the commands in its blocks of sh are looked up in a program's own tree, flags
// and arguments and all.
package guidetest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Command is one of a guide.
type Command struct {
	Line  int
	Words []string
}

// Block is one of a guide.
type Block struct {
	Line     int
	Language string
	Text     string
}

// Blocks returns the fenced blocks of a guide.
func Blocks(t *testing.T, path string) (blocks []Block) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inside, line := false, 0
	for text := range strings.Lines(string(b)) {
		line++
		language, fence := strings.CutPrefix(strings.TrimSpace(text), "```")
		switch {
		case fence && !inside:
			blocks = append(blocks, Block{Line: line + 1, Language: language})
			inside = true
		case fence:
			inside = false
		case inside:
			blocks[len(blocks)-1].Text += text
		}
	}
	return blocks
}

var inner = regexp.MustCompile(`\$\(([^()]*)\)`)

// Commands returns those in blocks of sh: also those of a pipe, of $(…), and
// behind sudo. Variables that are set before a command are left out.
func Commands(t *testing.T, path string) (all []Command) {
	t.Helper()
	for _, b := range Blocks(t, path) {
		if b.Language != "sh" {
			continue
		}
		line := b.Line - 1
		for text := range strings.Lines(b.Text) {
			line++
			for _, m := range inner.FindAllStringSubmatch(text, -1) {
				all = append(all, commands(line, m[1])...)
			}
			all = append(all, commands(line, inner.ReplaceAllString(text, "word"))...)
		}
	}
	return all
}

func commands(line int, text string) (all []Command) {
	var words []string
	end := func() {
		for len(words) > 0 && (words[0] == "sudo" || regexp.MustCompile(`^[A-Z_]+=`).MatchString(words[0])) {
			words = words[1:]
		}
		if len(words) > 0 {
			all = append(all, Command{line, words})
		}
		words = nil
	}
	for _, word := range split(text) {
		switch {
		case word == "|" || word == "&&":
			end()
		case strings.HasPrefix(word, "#"):
			end()
			return all
		default:
			words = append(words, word)
		}
	}
	end()
	return all
}

// split makes words of a line as a shell does, as far as guides go.
func split(line string) (words []string) {
	var word strings.Builder
	var quote rune
	begun := false
	for _, r := range strings.TrimSpace(line) + " " {
		switch {
		case quote == 0 && (r == '"' || r == '\''):
			quote, begun = r, true
		case r == quote:
			quote = 0
		case quote == 0 && r == ' ':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	return words
}

// Check says what is wrong with a command of the program that root is, which
// must be a new one.
func Check(root *cobra.Command, words []string) (*cobra.Command, error) {
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		return nil, err
	}
	if cmd.HasSubCommands() {
		return nil, fmt.Errorf("%s is no whole command", cmd.CommandPath())
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return nil, err
	}
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return cmd, nil
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		return nil, err
	}
	return cmd, cmd.ValidateArgs(cmd.Flags().Args())
}

// Settings checks that a daemon reads each of the guide's blocks that begin with
// a comment that names the file.
func Settings(t *testing.T, daemon func() *cobra.Command, path, file string) {
	t.Helper()
	found := false
	for _, b := range Blocks(t, path) {
		if !strings.HasPrefix(b.Text, "# "+file) {
			continue
		}
		found = true
		written := filepath.Join(t.TempDir(), filepath.Base(file))
		if err := os.WriteFile(written, []byte(b.Text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := daemon()
		if err := cmd.ParseFlags([]string{"--config", written}); err != nil {
			t.Fatal(err)
		}
		if err := cmd.PreRunE(cmd, nil); err != nil {
			t.Errorf("%s:%d: %v", path, b.Line, err)
		}
	}
	if !found {
		t.Errorf("%s shows no %s", path, file)
	}
}
