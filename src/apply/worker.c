/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The applier of one database as a background worker.
 *
 * IDENTIFICATION
 *	  src/apply/worker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"

void
CdpWorkerInit(void)
{
}
