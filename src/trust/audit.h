/*-------------------------------------------------------------------------
 *
 * audit.h
 *	  Who changed what: entries of the audit and their seals.
 *
 * IDENTIFICATION
 *	  src/trust/audit.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRUST_AUDIT_H
#define CDP_TRUST_AUDIT_H

#include "postgres.h"

/*
 * Note the decisions among the entries of a batch, given by their numbers in
 * the log, and seal what has been noted.  Inside SPI_connect and
 * CdpBecomeOwner, as the next.
 */
extern void CdpAuditDecisions(const int64 *entries, const int64 *xids, int n);
/* Seal what has been noted by transactions that have committed. */
extern void CdpAuditSeal(void);

#endif /* CDP_TRUST_AUDIT_H */
