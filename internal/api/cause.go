package api

import (
	"fmt"
	"strings"
	"unicode"
)

// Story tells the cause to people, in lines: what happened, where, with which
// exit code, and what the container last wrote. A failed apply and the command
// line's describe show it, so both say the same in the same words.
func (c *Cause) Story() []string {
	out := []string{"Cause: " + strings.TrimRight(c.Message, ".") + "."}
	var facts []string
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, name+" "+value)
		}
	}
	add("pod", c.Pod)
	add("on node", c.Node)
	if c.Container != MainContainer {
		add("container", c.Container)
	}
	if c.ExitCode != nil {
		fact := fmt.Sprintf("exit code %d", *c.ExitCode)
		if c.OOM {
			fact += ", for it ran out of memory"
		}
		facts = append(facts, fact)
	}
	if len(facts) > 0 {
		line := strings.Replace(strings.Join(facts, ", "), ", on node", " on node", 1)
		out = append(out, strings.ToUpper(line[:1])+line[1:]+".")
	}
	if len(c.Log) > 0 {
		out = append(out, "", "Last log lines:")
		for _, line := range c.Log {
			out = append(out, "  "+strings.Map(printable, line))
		}
	}
	return out
}

// printable drops what would speak to the terminal rather than to its reader.
func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case unicode.IsControl(r):
		return -1
	}
	return r
}
