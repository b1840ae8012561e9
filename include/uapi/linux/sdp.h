/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Stream sockets over RDMA with the Sockets Direct Protocol.
 */
#ifndef _UAPI_LINUX_SDP_H
#define _UAPI_LINUX_SDP_H

#include <linux/types.h>

/*
 * The address family of SDP sockets over IPv4, as programs have known it since
 * OFED. Linux has its own name for the number (AF_IB), but no sockets of it.
 *
 *	fd = socket(AF_INET_SDP, SOCK_STREAM, 0);
 *
 * Addresses are struct sockaddr_in, of family AF_INET or AF_INET_SDP; returned
 * addresses are of family AF_INET.
 */
#define AF_INET_SDP	27
#define PF_INET_SDP	AF_INET_SDP

/*
 * That of SDP sockets over IPv6, which also reach IPv4 through v4-mapped addresses
 * unless IPV6_V6ONLY is set. Addresses are struct sockaddr_in6, of family AF_INET6 or
 * AF_INET6_SDP; returned addresses are of family AF_INET6. Linux has its own name for
 * this number too (AF_MPLS), but no sockets of it.
 */
#define AF_INET6_SDP	28
#define PF_INET6_SDP	AF_INET6_SDP

/*
 * Socket options at level SOL_TCP.
 *
 * SDP_ZCOPY_THRESH (int): the smallest send or receive, in bytes, that moves without
 * a copy; 0 turns that off. A new socket has the value of net.sdp.zcopy_threshold.
 * The number is that of OFED.
 *
 * SDP_ZCOPY_RETRY (int): whether a non-blocking call that fails with EAGAIN may
 * leave its buffer with the socket. The program must repeat the call, with the same
 * buffer, once the socket is ready, and must not touch the buffer until then; any
 * other call in the same direction fails with EBUSY.
 *
 * SDP_LAST_BIND_ERR (int, get only): the negative error of the last bind(), or 0 after
 * one that succeeded. If no interface of the namespace has an RDMA device, for which
 * bind() itself fails with ENODEV, it is -ENOENT: programs for OFED then fall back to TCP.
 *
 * SDP_STATS (struct sdp_stats, get only): how the bytes of a connection moved.
 */
#define SDP_ZCOPY_THRESH	80
#define SDP_LAST_BIND_ERR	81
#define SDP_ZCOPY_RETRY		82
#define SDP_STATS		83

/*
 * Counters of one connection. /proc/net/sdp_stat has those of all connections of a
 * network namespace, one per line, by the same names. New fields are added at the end;
 * getsockopt() returns as much as there is room for.
 */
struct sdp_stats {
	__u64 sent_copied;	/* bytes copied from the program's memory */
	__u64 sent_direct;	/* bytes sent by Data from the program's memory */
	__u64 sent_read;	/* bytes that the peer fetched by RDMA Read */
	__u64 sent_written;	/* bytes written to the peer by RDMA Write */
	__u64 recv_copied;	/* bytes copied to the program's memory */
	__u64 recv_read;	/* bytes fetched by RDMA Read */
	__u64 recv_written;	/* bytes that the peer wrote by RDMA Write */
	__u64 recv_moved;	/* bytes given to a pipe in their pages */
	__u64 src_avails;	/* SrcAvail messages sent */
	__u64 sink_avails;	/* SinkAvail messages sent */
	__u64 declined;		/* times that the peer was asked to send copies */
	__u64 cancels_timeout;	/* sends withdrawn on a timeout */
	__u64 cancels_signal;	/* sends withdrawn because of a signal */
	__u64 cancels_retry;	/* buffers left behind whose call was not repeated */
	__u64 no_memlock;	/* copies because of RLIMIT_MEMLOCK */
	__u64 no_pages;		/* copies because pages could not be pinned */
	__u64 no_mr;		/* copies because memory could not be registered */
	__u64 pages_pinned;	/* pages pinned or referenced */
	__u64 pages_unpinned;	/* pages released */
	__u64 mrs_registered;	/* memory regions registered */
	__u64 mrs_invalidated;	/* memory regions invalidated */
};

#endif /* _UAPI_LINUX_SDP_H */
