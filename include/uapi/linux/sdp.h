/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Stream sockets over RDMA with the Sockets Direct Protocol.
 */
#ifndef _UAPI_LINUX_SDP_H
#define _UAPI_LINUX_SDP_H

/*
 * The address family of SDP sockets over IPv4, as programs have known it since
 * OFED. Linux has a name of its own for the number (AF_IB) but no sockets of it.
 *
 *	fd = socket(AF_INET_SDP, SOCK_STREAM, 0);
 *
 * Addresses are struct sockaddr_in, of family AF_INET or AF_INET_SDP; names come
 * back as AF_INET.
 */
#define AF_INET_SDP	27
#define PF_INET_SDP	AF_INET_SDP

#endif /* _UAPI_LINUX_SDP_H */
