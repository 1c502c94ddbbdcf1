// Toolbox is the one program of the images that test container runtimes. Its
// arguments are a script, the same that package fake plays; beyond those steps
// it knows, for what only a real container can show:
//
//	env=NAME       prints a variable
//	cat, line      copies standard input, all or one line
//	size           prints the terminal's size once it is not 0x0 (twice=… two sizes)
//	file=PATH      prints a file
//	write=PATH     writes a file, prints the error if it cannot
//	link=PATH      prints where a link points, such as /proc/self/ns/net
//	fork=N         starts N children that stay
//	flood=N        prints N numbered lines
//	hostname       prints it
//	long=N         prints one line of N bytes
//	zombies=N      N children end, and nobody asks how
//	id             prints its user and group: 0:0
//	rights         prints effective and ambient capabilities, no-new-privileges and seccomp
//	open=PATH      opens a device, prints the error if it cannot
//	use=M,N        uses M thousandths of a core and N bytes of memory from now on
//	oom-child      a child of it runs out of memory
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, step := range os.Args[1:] {
		verb, value, _ := strings.Cut(step, "=")
		if do, ok := steps[verb]; ok {
			do(value)
			continue
		}
		fmt.Fprintln(os.Stderr, "toolbox: no step", verb)
		os.Exit(2)
	}
}

var steps = map[string]func(value string){
	"print":       func(v string) { fmt.Println(v) },
	"warn":        func(v string) { fmt.Fprintln(os.Stderr, v) },
	"listen":      func(string) {},
	"deaf":        func(string) {},
	"wait":        func(v string) { time.Sleep(duration(v)) },
	"exit":        func(v string) { os.Exit(number(v)) },
	"forever":     func(string) { forever() },
	"ignore-term": func(string) { signal.Ignore(syscall.SIGTERM) },
	"on-term":     onTerm,
	"oom":         func(string) { oom() },
	"env":         func(v string) { fmt.Println(os.Getenv(v)) },
	"cat":         func(string) { io.Copy(os.Stdout, os.Stdin) },
	"line":        line,
	"size":        func(v string) { size(v) },
	"file":        file,
	"write":       func(v string) { report(os.WriteFile(v, []byte("x"), 0o600)) },
	"link":        link,
	"fork":        fork,
	"flood":       flood,
	"id":          func(string) { fmt.Printf("%d:%d\n", os.Getuid(), os.Getgid()) },
	"rights":      func(string) { rights() },
	"open":        open,
	"use":         use,
	"oom-child":   func(string) { exec.Command(os.Args[0], "oom").Run() },
	"long":        func(v string) { fmt.Println(strings.Repeat("x", number(v))) },
	"zombies":     zombies,
	"hostname":    func(string) { h, _ := os.Hostname(); fmt.Println(h) },
}

// held is what use holds: seen from outside, so that it stays.
var held []byte

func use(v string) {
	milli, bytes, _ := strings.Cut(v, ",")
	held = make([]byte, number(bytes))
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	const period = 10 * time.Millisecond
	busy := time.Duration(number(milli)) * period / 1000
	go func() {
		for {
			for start := time.Now(); time.Since(start) < busy; {
			}
			time.Sleep(period - busy)
		}
	}()
}

func number(v string) int {
	n, err := strconv.Atoi(v)
	report(err)
	return n
}

func duration(v string) time.Duration {
	d, err := time.ParseDuration(v)
	report(err)
	return d
}

func report(err error) {
	if err != nil {
		fmt.Println(err)
	}
}

// forever waits without a goroutine that could run, which Go takes for a deadlock.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func onTerm(v string) {
	code, takes, _ := strings.Cut(v, ",")
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	go func() {
		<-c
		if takes != "" {
			time.Sleep(duration(takes))
		}
		fmt.Println("bye")
		os.Exit(number(code))
	}()
}

func oom() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		runtime.KeepAlive(all)
	}
}

func line(string) {
	text, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Print(text)
}

// size waits for a terminal size other than the one named.
func size(not string) {
	for {
		ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			report(err)
			return
		}
		if s := fmt.Sprintf("%dx%d", ws.Col, ws.Row); s != "0x0" && s != not {
			fmt.Println(s)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func file(v string) {
	b, err := os.ReadFile(v)
	report(err)
	os.Stdout.Write(b)
}

func link(v string) {
	to, err := os.Readlink(v)
	report(err)
	fmt.Println(to)
}

func fork(v string) {
	for range number(v) {
		c := exec.Command(os.Args[0], "forever")
		if err := c.Start(); err != nil {
			fmt.Println(err)
			return
		}
	}
}

func flood(v string) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for i := range number(v) {
		fmt.Fprintln(out, "line", i)
	}
}

func open(v string) {
	f, err := os.OpenFile(v, os.O_RDWR, 0)
	report(err)
	f.Close()
}

func rights() {
	b, err := os.ReadFile("/proc/self/status")
	report(err)
	var out []string
	for _, key := range []string{"CapEff:", "CapAmb:", "NoNewPrivs:", "Seccomp:"} {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, key); ok {
				out = append(out, cmp.Or(strings.TrimLeft(strings.TrimSpace(v), "0"), "0"))
			}
		}
	}
	fmt.Println(strings.Join(out, " "))
}

func zombies(v string) {
	for range number(v) {
		exec.Command(os.Args[0], "exit=0").Start()
	}
}
