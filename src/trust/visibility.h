/*-------------------------------------------------------------------------
 *
 * visibility.h
 *	  Roles that see some profiles only: the members of segments.
 *
 * IDENTIFICATION
 *	  src/trust/visibility.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRUST_VISIBILITY_H
#define CDP_TRUST_VISIBILITY_H

extern void CdpVisibilityInit(void);

#endif /* CDP_TRUST_VISIBILITY_H */
