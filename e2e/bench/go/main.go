// contender takes part in one election by the rules of client-go or of etcd, until it is killed or its input ends.
//
// It says when it leads and hears what to do as the contenders in Rust do (../src/contend/mod.rs).
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// seat is which election, and who.
type seat struct {
	election, me string
	give         <-chan struct{}
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: contender client-go KUBECONFIG ELECTION ME LEASE RENEW RETRY | contender etcd ENDPOINT ELECTION ME TTL"))
	}
	give := make(chan struct{}, 1)
	go hear(give)
	args := os.Args[2:]
	var err error
	switch {
	case os.Args[1] == "client-go" && len(args) == 6:
		err = clientGo(context.Background(), args[0], seat{args[1], args[2], give}, durations(args[3:]))
	case os.Args[1] == "etcd" && len(args) == 4:
		err = etcd(context.Background(), args[0], seat{args[1], args[2], give}, durations(args[3:])[0])
	default:
		err = fmt.Errorf("unknown arguments: %q", os.Args[1:])
	}
	if err != nil {
		fail(err)
	}
}

// hear waits for the order to give; when nobody is left who could order anything, it ends the process.
func hear(give chan<- struct{}) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() == "give" {
			give <- struct{}{}
		}
	}
	os.Exit(0)
}

// now is the reading of the clock that all contenders share.
func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		fail(err)
	}
	return t.Nano()
}

func say(word string, at int64) {
	fmt.Printf("%s %d\n", word, at)
}

func durations(args []string) []time.Duration {
	var found []time.Duration
	for _, arg := range args {
		d, err := time.ParseDuration(arg)
		if err != nil {
			fail(err)
		}
		found = append(found, d)
	}
	return found
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "contender:", err)
	os.Exit(1)
}
