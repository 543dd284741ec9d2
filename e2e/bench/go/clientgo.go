package main

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// clientGo contends as every controller does that is started with --leader-elect: a Lease in the namespace default, with
// ReleaseOnCancel, which is how a controller resigns.
func clientGo(ctx context.Context, kubeconfig string, s seat, d []time.Duration) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	// It gives each request half of the renewal that it is for.
	identity := resourcelock.ResourceLockConfig{Identity: s.me}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, "default", s.election, identity, config, d[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var gave atomic.Int64
	go func() {
		<-s.give
		gave.Store(now())
		cancel()
	}()
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   d[0],
		RenewDeadline:   d[1],
		RetryPeriod:     d[2],
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { say("leads", now()) },
			OnStoppedLeading: func() { say("stands", now()) },
			OnNewLeader: func(identity string) {
				if identity != s.me && identity != "" {
					say("follows", 0)
				}
			},
		},
	})
	// It ends when leadership is lost; a controller's process ends then, too.
	if at := gave.Load(); at != 0 {
		say("gives", at)
	}
	return nil
}
